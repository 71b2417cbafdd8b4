// Reparameterised samples and the KL to N(0, I), in one pass over the posterior's parameters: a chunk of mu and sigma
// stays in the first-level cache while its noise is drawn for one sample after another.
#pragma once
#include "cpu/rows.h"
#include "formulas/gaussian.h"
#include "formulas/philox.h"

namespace aevb::AEVB_ISA {

// The noise of one key. Element i is number i % 4 of Philox block i / 4.
class Noise {
 public:
  explicit Noise(const int64_t* key)
      : keys_(uint32_t(key[0]), uint32_t(uint64_t(key[0]) >> 32)), offset_(uint64_t(key[1])) {}

  // Calls body(load, store, eps) like `along`, with store(v, p, streamed) and the noise of elements [begin, begin +
  // count). The noise is drawn a group at a time, so that there is work while operands are loaded from memory; or it
  // was `drawn` already.
  template <class T, class Body>
  AEVB_INLINE void along(int64_t begin, int count, const T* before, Body body) const {
    constexpr int lanes = Vec<T>::lanes;
    alignas(64) T buffer[kChunk + 2 * kGroup];
    const int skip = before ? 0 : begin % 4;
    const T* eps = before ? before : buffer + skip;
    int i = 0;
    for (int drawn = -skip; drawn < count;) {
      if (!before) draw((begin + drawn) / 4, buffer + skip + drawn);
      drawn += kGroup;
      const int ready = drawn < count ? drawn : count;
      for (; i + lanes <= ready; i += lanes)
        body([i](const T* p) AEVB_INLINE_BODY { return load_and_prefetch(p + i); },
             [i](Vec<T> v, T* p, bool streamed) AEVB_INLINE_BODY { streamed ? v.stream(p + i) : v.store(p + i); },
             Vec<T>::load(eps + i));
    }
    if (i < count)
      body([=](const T* p) AEVB_INLINE_BODY { return Vec<T>::load(p + i, count - i); },
           [=](Vec<T> v, T* p, bool) AEVB_INLINE_BODY { v.store(p + i, count - i); }, Vec<T>::load(eps + i));
  }

  // Draws the normals, or words, of elements [begin, begin + count); the result points to the first. They are drawn in
  // groups, so `to` needs room for two more groups.
  template <class T>
  AEVB_INLINE const T* drawn(int64_t begin, int count, T* to) const {
    const int skip = begin % 4;
    for (int drawn = -skip; drawn < count; drawn += kGroup) draw((begin + drawn) / 4, to + skip + drawn);
    return to + skip;
  }
  static constexpr int room(int count) { return count + 2 * kGroup; }

  // Draws to `to` the normals, or words, of elements whose flat indices [begin, begin + count) are mapped to others, to
  // which `shift` is added.
  //
  // Runs of consecutive numbers lie `inner` elements apart: they are drawn in lines, a few at a time, and transposed.
  template <class T>
  __attribute__((noinline)) void drawn(const Input& logical, int64_t begin, int count, int64_t shift, T* to) const {
    int along = logical.dims - 1;  // the dimension of consecutive numbers
    int64_t inner = 1;
    for (; along > 0 && logical.stride[along] != 1; --along) inner *= logical.size[along];
    const int64_t length = logical.size[along], per_outer = length * inner, end = begin + count;
    for (int64_t flat = begin; flat < end;) {
      int64_t index[kMaxDims];
      const int64_t outer = flat / per_outer, base = offset_of(logical, outer * per_outer, index) + shift;
      const int64_t start = outer * per_outer, stop = end < start + per_outer ? end : start + per_outer;
      const int64_t first = (flat - start) / inner, first_line = (flat - start) % inner;
      const int64_t last = (stop - start) / inner, last_line = (stop - start) % inner;
      // Line i goes from its number `first` on, or the next one, to before its number `last`, or to that.
      const auto lines = [&](int64_t i, int64_t lines_end, int64_t from, int64_t until) AEVB_INLINE_BODY {
        while (i < lines_end && from < until)
          i = draw_lines(logical, along, i, lines_end, from, until, base, inner, length, to + (start - begin));
      };
      const int64_t low = first_line < last_line ? first_line : last_line;
      const int64_t high = first_line < last_line ? last_line : first_line;
      lines(0, low, first + (0 < first_line), last + (0 < last_line));
      lines(low, high, first + (low < first_line), last + (low < last_line));
      lines(high, inner, first, last);
      flat = stop;
    }
  }

 private:
  // The processor's own prefetching stops at the end of a row, and while noise is drawn no operands are loaded.
  template <class T>
  static AEVB_INLINE Vec<T> load_and_prefetch(const T* p) {
    __builtin_prefetch(p + kChunk);
    return Vec<T>::load(p);
  }

  // Draws some lines from number i on, from their numbers `from` to before `until`; the result is the next line's
  // number.
  template <class T>
  AEVB_INLINE int64_t draw_lines(const Input& logical, int along, int64_t i, int64_t end, int64_t from, int64_t until,
                                 int64_t base, int64_t inner, int64_t length, T* to) const {
    constexpr int most = 8, numbers = most * 128;
    alignas(64) T line[numbers + most * (room(0) + 4)];
    const auto start_of = [&](int64_t i) {
      int64_t offset = 0;
      for (int d = logical.dims - 1; d > along; --d)
        offset += i % logical.size[d] * logical.stride[d], i /= logical.size[d];
      return base + offset;
    };
    const int64_t start = start_of(i);
    int count = 1;
    while (count < most && i + count < end && start_of(i + count) == start + count * (start_of(i + 1) - start)) ++count;
    const int64_t step = count > 1 ? start_of(i + 1) - start : length;
    if (from == 0 && until == length && step == length && count * length <= numbers) {
      // Whole lines that follow each other.
      const T* const drawn_lines = drawn(start, int(count * length), line);
      transpose(drawn_lines, length, count, int(length), to + i, inner);
      return i + count;
    }
    const int part = numbers / count / 32 * 32, room_of_line = room(part) + 4;
    for (int64_t at = from; at < until; at += part) {
      const int some = int(until - at < part ? until - at : part);
      // Blocks start so far before that all lines' first numbers are a line's room apart.
      for (int k = 0; k < count; ++k) {
        const int64_t number = start + k * step + at;
        drawn(number, some, line + k * room_of_line + 4 - number % 4);
      }
      transpose(line + 4, room_of_line, count, some, to + at * inner + i, inner);
    }
    return i + count;
  }

  static constexpr int kBlocks = Word::lanes, kGroup = 4 * kBlocks;  // blocks and normals drawn at once

  // The block of the group that lane i of part k of the words belongs to. The two blocks of a quarter register are half
  // a register apart, so that interleaving groups of four puts all normals in order.
  static constexpr int kPart = kBlocks / Word::parts;
  static constexpr int block_at(int k, int i) { return kPart * k + i / 2 + i % 2 * (kPart / 2); }

  AEVB_INLINE PhiloxBlock<Word> words(int64_t block) const {
    PhiloxBlock<Word> counter;
    for (int k = 0; k < Word::parts; ++k) {
      Wide at;
      for (int i = 0; i < kPart; ++i) at[i] = block_at(k, i);
      counter.word[0].part[k] = at + uint64_t(block);
      counter.word[1].part[k] = counter.word[0].part[k] >> 32;
    }
    counter.word[2] = Word(uint32_t(offset_));
    counter.word[3] = Word(uint32_t(offset_ >> 32));
    return philox4x32_10(counter, keys_);
  }

  AEVB_INLINE void draw(int64_t block, float* to) const {
    const PhiloxBlock<Word> w = words(block);
    const auto number = [](Wide a, Wide b) { return F32(__builtin_convertvector(pair_low_halves(a, b), F32::raw)); };
    for (int k = 0; k < Word::parts; ++k, to += 2 * F32::lanes) {
      F32 first, second;
      box_muller(number(w.word[0].part[k], w.word[2].part[k]), number(w.word[1].part[k], w.word[3].part[k]), first,
                 second);
      interleave_fours(first, second);
      first.store(to);
      second.store(to + F32::lanes);
    }
  }

  void draw(int64_t block, double* to) const {
    const PhiloxBlock<Word> w = words(block);
    const auto number = [](Wide a) { return F64(__builtin_convertvector(a & 0xffffffffu, F64::raw)); };
    for (int k = 0; k < Word::parts; ++k) {
      F64 normal[4];
      for (int j = 0; j < 4; j += 2)
        box_muller(number(w.word[j].part[k]), number(w.word[j + 1].part[k]), normal[j], normal[j + 1]);
      for (int i = 0; i < F64::lanes; ++i)
        for (int j = 0; j < 4; ++j) to[4 * block_at(k, i) + j] = normal[j].v[i];
    }
  }

  AEVB_INLINE void draw(int64_t block, uint32_t* to) const {
    const PhiloxBlock<Word> w = words(block);
    for (int k = 0; k < Word::parts; ++k, to += 2 * F32::lanes) {
      F32 even = {(F32::raw)pair_low_halves(w.word[0].part[k], w.word[2].part[k])};
      F32 odd = {(F32::raw)pair_low_halves(w.word[1].part[k], w.word[3].part[k])};
      interleave_fours(even, odd);
      memcpy(to, &even.v, sizeof even.v);
      memcpy(to + F32::lanes, &odd.v, sizeof odd.v);
    }
  }

  PhiloxKeys<EveryWord> keys_;
  uint64_t offset_;
};

// How many elements' noise is drawn at once where flat indices are mapped to others: lines of a hundred numbers or so.
inline int drawn_at_once(const Input& logical) {
  int64_t inner = 1;
  for (int d = logical.dims - 1; d > 0 && logical.stride[d] != 1; --d) inner *= logical.size[d];
  return int(inner < 10 ? kTile / 4 : inner < kTile / 128 ? kTile / 2 : kTile);
}

// Calls body(chunk, noise, numbered) for the chunks of tiles [begin, end). No chunk has rows of two keys. In the first
// sample, a chunk's noise is that of its key from number `numbered` on, where flat indices are logical ones.
template <class Call, class Body>
AEVB_INLINE void for_each_drawn(const Call& call, int64_t begin, int64_t end, Body body) {
  const Tiles tile = tiles(call.rows, call.event, call.blocks, call.rows_per_sum());
  const int64_t numbers = call.key_rows * call.event, before = call.first_sample * numbers;
  const int limit = call.logical.dims ? drawn_at_once(call.logical) : kChunk;
  int64_t key = 0;
  Noise noise(call.key);
  for (int64_t t = begin; t < end; ++t)
    for_each_chunk(
        call, tile, t,
        [&](Chunk chunk) AEVB_INLINE_BODY {
          for (int rows = chunk.rows; rows > 0; rows -= chunk.rows, chunk.row += chunk.rows, chunk.flat += chunk.size) {
            const int64_t own = chunk.row / call.key_rows, end_of_key = (own + 1) * call.key_rows;
            if (own != key) noise = Noise(call.key + 2 * (key = own));
            chunk.rows = rows < end_of_key - chunk.row ? rows : int(end_of_key - chunk.row);
            chunk.size = chunk.rows * chunk.count;
            body(chunk, noise, before + chunk.flat - own * numbers);
          }
        },
        limit);
}

// Where flat indices are not logical ones: the noise of a chunk from number `numbered` on, in the order of its
// elements.
template <class Call, class T>
AEVB_INLINE const T* drawn_before(const Call& call, const Chunk& chunk, const Noise& noise, int64_t numbered, T* to) {
  if (!call.logical.dims) return nullptr;
  noise.drawn(call.logical, chunk.flat, chunk.size, numbered - chunk.flat, to);
  return to;
}

// Whether results at this address are written past the caches.
template <class T>
bool streams(const SampleCall& call, const T* to, const Buffer<T>& buffer) {
  return call.beyond_caches && to != buffer.data && uintptr_t(to) % sizeof(Vec<T>) == 0;
}

template <class T, class Kind>
void samples_forward(const SampleCall& call, Kind kind, int64_t begin, int64_t end) {
  using N = Vec<T>;
  const int64_t elements = call.rows * call.event, numbers = call.key_rows * call.event;
  const bool kl_wanted = call.kl.data, again = call.samples > 1;
  Buffer<T> mu_buffer, s_buffer, std, values, z_buffer, noise_buffer;
  for_each_drawn(call, begin, end, [&](const Chunk& chunk, const Noise& noise, int64_t numbered) AEVB_INLINE_BODY {
    const T* mu = stage(call.mu, chunk.flat, chunk.size, call.wide, mu_buffer);
    const T* s = stage(call.spread, chunk.flat, chunk.size, call.wide, s_buffer);
    T* const sigmas = std.data;
    T* divergence = flat_target(call.kl, chunk, call.wide, values);
    for (int64_t k = 0; k < call.samples; ++k) {
      const int64_t number = k * numbers + numbered;
      Chunk drawn = chunk;
      drawn.flat += k * elements;
      T* z = flat_target(call.z, drawn, call.wide, z_buffer);
      const bool streamed = streams(call, z, z_buffer);
      const T* const before = drawn_before(call, chunk, noise, number, noise_buffer.data);
      if (k == 0)
        noise.along<T>(number, chunk.size, before, [=](auto load, auto store, N eps) AEVB_INLINE_BODY {
          const N m = load(mu), v = load(s);
          N sigma, variance;
          SpreadOf{kind}.std_and_var(v, sigma, variance);
          store(fma(sigma, eps, m), z, streamed);
          if (kl_wanted) store(GaussianKl{{kind}}.value(m, v, variance), divergence, false);
          if (again) store(sigma, sigmas, false);
        });
      else
        noise.along<T>(number, chunk.size, before, [=](auto load, auto store, N eps) AEVB_INLINE_BODY {
          store(fma(load(sigmas), eps, load(mu)), z, streamed);
        });
      if (z == z_buffer.data) deliver(call.z, drawn, z_buffer, call.beyond_caches);
    }
    if (divergence == values.data) deliver(call.kl, chunk, values, call.beyond_caches);
  });
  if (call.beyond_caches) finish_streams();
}

// dL/dmu = sum_l g_l,  dL/ds = d sigma/ds sum_l g_l eps_l,  and the KL's part of each.
template <class T, class Kind>
void samples_backward(const SampleCall& call, Kind kind, int64_t begin, int64_t end) {
  using N = Vec<T>;
  const N kl_scale(call.kl_cotangent_scale);
  const int64_t elements = call.rows * call.event, numbers = call.key_rows * call.event;
  const int64_t samples = call.z_cotangent.data ? call.samples : 0;
  const bool kl_wanted = call.kl_cotangent.data;
  Buffer<T> mu_buffer, s_buffer, z_buffer, kl_buffer, dmu_buffer, ds_buffer, sum, sum_eps, noise_buffer;
  for_each_drawn(call, begin, end, [&](const Chunk& chunk, const Noise& noise, int64_t numbered) AEVB_INLINE_BODY {
    const T* s = stage(call.spread, chunk.flat, chunk.size, call.wide, s_buffer);
    const T* mu = nullptr;
    const T* kl_cotangent = nullptr;
    if (kl_wanted) {
      mu = stage(call.mu, chunk.flat, chunk.size, call.wide, mu_buffer);
      kl_cotangent = stage(call.kl_cotangent, chunk.flat, chunk.size, call.wide, kl_buffer);
    }
    T* dmu = flat_target(call.gradient[0], chunk, call.wide, dmu_buffer);
    T* ds = flat_target(call.gradient[1], chunk, call.wide, ds_buffer);
    const bool dmu_streamed = streams(call, dmu, dmu_buffer), ds_streamed = streams(call, ds, ds_buffer);
    T* const g_sum = sum.data;
    T* const g_eps_sum = sum_eps.data;
    const auto finish = [=](auto load, auto store, N g, N g_eps) AEVB_INLINE_BODY {
      const N v = load(s);
      N sigma, variance;
      SpreadOf{kind}.std_and_var(v, sigma, variance);
      g_eps = chain(g_eps, SpreadOf{kind}.std_slope_at(sigma));
      if (kl_wanted) {
        N kl_dmu, kl_ds;
        GaussianKl{{kind}}.gradient(load(mu), v, variance, kl_dmu, kl_ds);
        const N cotangent = load(kl_cotangent) * kl_scale;
        g = g + chain(cotangent, kl_dmu);
        g_eps = g_eps + chain(cotangent, kl_ds);
      }
      store(g, dmu, dmu_streamed);
      store(g_eps, ds, ds_streamed);
    };
    for (int64_t k = 0; k < samples; ++k) {
      const int64_t number = k * numbers + numbered;
      const T* g = stage(call.z_cotangent, k * elements + chunk.flat, chunk.size, call.wide, z_buffer);
      const T* const before = drawn_before(call, chunk, noise, number, noise_buffer.data);
      if (samples == 1)
        noise.along<T>(number, chunk.size, before, [=](auto load, auto store, N eps) AEVB_INLINE_BODY {
          const N cotangent = load(g);
          finish(load, store, cotangent, cotangent * eps);
        });
      else
        noise.along<T>(number, chunk.size, before, [=](auto load, auto store, N eps) AEVB_INLINE_BODY {
          const N cotangent = load(g), so_far = k ? load(g_sum) : N(0), eps_so_far = k ? load(g_eps_sum) : N(0);
          store(so_far + cotangent, g_sum, false);
          store(fma(cotangent, eps, eps_so_far), g_eps_sum, false);
        });
    }
    if (samples != 1)
      along<T>(chunk.size, [=](auto load, auto store) AEVB_INLINE_BODY {
        const auto put = [=](N v, T* p, bool) AEVB_INLINE_BODY { store(v, p); };
        finish(load, put, samples ? load(g_sum) : N(0), samples ? load(g_eps_sum) : N(0));
      });
    if (dmu == dmu_buffer.data) deliver<true>(call.gradient[0], chunk, dmu_buffer, call.beyond_caches);
    if (ds == ds_buffer.data) deliver<true>(call.gradient[1], chunk, ds_buffer, call.beyond_caches);
  });
  if (call.beyond_caches) finish_streams();
}

// Each spread has its own copy of the loops, since a branch in such short loops would cost too much; float64, which is
// for checking, has one.
template <class T, class Run>
void with_spread(Spread spread, Run run) {
  if constexpr (sizeof(T) == 8) {
    run(spread);
  } else {
    switch (spread) {
      case Spread::logvar: return run(std::integral_constant<Spread, Spread::logvar>());
      case Spread::log_std: return run(std::integral_constant<Spread, Spread::log_std>());
      case Spread::std: return run(std::integral_constant<Spread, Spread::std>());
      case Spread::var: return run(std::integral_constant<Spread, Spread::var>());
    }
  }
}

template <class T>
void samples_forward(const SampleCall& call, int64_t begin, int64_t end) {
  with_spread<T>(call.params.spread, [&](auto kind) { samples_forward<T>(call, kind, begin, end); });
}
template <class T>
void samples_backward(const SampleCall& call, int64_t begin, int64_t end) {
  with_spread<T>(call.params.spread, [&](auto kind) { samples_backward<T>(call, kind, begin, end); });
}

}  // namespace aevb::AEVB_ISA
