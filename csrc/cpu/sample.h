// Reparameterised samples and the KL to N(0, I), in one pass over the posterior's parameters: a chunk of mu and sigma
// stays in the first-level cache while its noise is drawn for one sample after another.
#pragma once
#include "cpu/rows.h"
#include "formulas/philox.h"

namespace aevb::AEVB_ISA {

// The noise of one key. Element i is number i % 4 of Philox block i / 4.
class Noise {
 public:
  explicit Noise(const int64_t* key) : seed_(key[0]), offset_(key[1]) {}

  // The noise of elements [begin, begin + count): a pointer into `buffer`, which has room for it.
  template <class T>
  const T* draw(int64_t begin, int count, T* buffer) const {
    const int skip = begin % 4;
    for (int done = 0; done < skip + count; done += 4 * Word::lanes) draw_blocks(begin / 4 + done / 4, buffer + done);
    return buffer + skip;
  }

  // What `draw` may write for a chunk: whole blocks from an aligned start.
  static constexpr int kRoom = kChunk + 8 * Word::lanes;

 private:
  template <class T>
  void draw_blocks(int64_t block, T* to) const {
    uint32_t low[Word::lanes], high[Word::lanes];
    for (int i = 0; i < Word::lanes; ++i) {
      low[i] = uint32_t(block + i);
      high[i] = uint32_t(uint64_t(block + i) >> 32);
    }
    PhiloxBlock<Word> counter;
    memcpy(&counter.word[0], low, sizeof low);
    memcpy(&counter.word[1], high, sizeof high);
    counter.word[2] = Word(uint32_t(offset_));
    counter.word[3] = Word(uint32_t(offset_ >> 32));
    counter = philox4x32_10(counter, uint32_t(seed_), uint32_t(seed_ >> 32));

    constexpr int lanes = Vec<T>::lanes;
    for (int part = 0; part < Word::lanes; part += lanes) {
      Vec<T> uniform[4], normal[4];
      for (int j = 0; j < 4; ++j) {
        Raw<uint32_t, lanes> words;
        memcpy(&words, reinterpret_cast<const char*>(&counter.word[j]) + part * sizeof(uint32_t), sizeof words);
        uniform[j] = {__builtin_convertvector(words, typename Vec<T>::raw)};
      }
      box_muller(uniform[0], uniform[1], normal[0], normal[1]);
      box_muller(uniform[2], uniform[3], normal[2], normal[3]);
      // Lane i of the four is block i: first, second, third and fourth in turn.
      interleave(normal[0], normal[2]);
      interleave(normal[1], normal[3]);
      interleave(normal[0], normal[1]);
      interleave(normal[2], normal[3]);
      for (int j = 0; j < 4; ++j) normal[j].store(to + 4 * part + j * lanes);
    }
  }

  uint64_t seed_, offset_;
};

template <class T>
void samples_forward(const SampleCall& call, int64_t begin, int64_t end) {
  const Noise noise(call.key);
  const SpreadOf spread = {call.params.spread};
  const GaussianKl kl = {spread};
  const int64_t elements = call.rows * call.event;
  Buffer<T> mu_buffer, s_buffer, std, values, z_buffer;
  alignas(64) T eps_buffer[Noise::kRoom];
  const Tiles tile = tiles(call.rows, call.event, call.blocks);
  for (int64_t t = begin; t < end; ++t)
    for_each_chunk(call, tile, t, [&](const Chunk& chunk) {
      const T* mu = stage(call.mu, chunk.flat, chunk.size, call.wide, mu_buffer);
      const T* s = stage(call.spread, chunk.flat, chunk.size, call.wide, s_buffer);
      along<T>(chunk.size, [&](auto load, auto store) { store(spread.std(load(s)), std.data); });
      if (call.kl.data) {
        T* out = target(call.kl, chunk.flat, call.wide, values);
        along<T>(chunk.size, [&](auto load, auto store) { store(kl.value(load(mu), load(s)), out); });
        deliver(call.kl, chunk, out);
      }
      for (int64_t k = 0; k < call.samples; ++k) {
        const int64_t index = k * elements + chunk.flat;
        const T* eps = noise.draw(index, chunk.size, eps_buffer);
        T* z = target(call.z, index, call.wide, z_buffer);
        along<T>(chunk.size, [&](auto load, auto store) { store(load(mu) + load(std.data) * load(eps), z); });
        unstage(call.z, index, chunk.size, z);
      }
    });
}

// dL/dmu = sum_l g_l,  dL/ds = d sigma/ds sum_l g_l eps_l,  and the KL's part of each.
template <class T>
void samples_backward(const SampleCall& call, int64_t begin, int64_t end) {
  using N = Vec<T>;
  const Noise noise(call.key);
  const SpreadOf spread = {call.params.spread};
  const GaussianKl kl = {spread};
  const N kl_scale(call.kl_cotangent_scale);
  const int64_t elements = call.rows * call.event;
  Buffer<T> mu_buffer, s_buffer, z_buffer, kl_buffer, dmu_buffer, ds_buffer;
  alignas(64) T eps_buffer[Noise::kRoom];
  const Tiles tile = tiles(call.rows, call.event, call.blocks);
  for (int64_t t = begin; t < end; ++t)
    for_each_chunk(call, tile, t, [&](const Chunk& chunk) {
      const T* s = stage(call.spread, chunk.flat, chunk.size, call.wide, s_buffer);
      T* dmu = target(call.gradient[0], chunk.flat, call.wide, dmu_buffer);
      T* ds = target(call.gradient[1], chunk.flat, call.wide, ds_buffer);
      along<T>(chunk.size, [&](auto, auto store) {
        store(N(0), dmu);
        store(N(0), ds);
      });
      if (call.z_cotangent.data) {
        for (int64_t k = 0; k < call.samples; ++k) {
          const int64_t index = k * elements + chunk.flat;
          const T* eps = noise.draw(index, chunk.size, eps_buffer);
          const T* g = stage(call.z_cotangent, index, chunk.size, call.wide, z_buffer);
          along<T>(chunk.size, [&](auto load, auto store) {
            const N cotangent = load(g);
            store(load(dmu) + cotangent, dmu);
            store(load(ds) + cotangent * load(eps), ds);
          });
        }
        along<T>(chunk.size, [&](auto load, auto store) { store(chain(load(ds), spread.std_slope(load(s))), ds); });
      }
      if (call.kl_cotangent.data) {
        const T* mu = stage(call.mu, chunk.flat, chunk.size, call.wide, mu_buffer);
        const T* g = stage(call.kl_cotangent, chunk.flat, chunk.size, call.wide, kl_buffer);
        along<T>(chunk.size, [&](auto load, auto store) {
          N kl_dmu, kl_ds;
          kl.gradient(load(mu), load(s), kl_dmu, kl_ds);
          const N cotangent = load(g) * kl_scale;
          store(load(dmu) + chain(cotangent, kl_dmu), dmu);
          store(load(ds) + chain(cotangent, kl_ds), ds);
        });
      }
      deliver(call.gradient[0], chunk, dmu);
      deliver(call.gradient[1], chunk, ds);
    });
}

}  // namespace aevb::AEVB_ISA
