// Reparameterised samples z = mu + sigma eps, and the KL to N(0, I), in one pass over the posterior's parameters.
//
// A thread takes four elements at a time, those of one Philox block, and keeps their mu and sigma while it draws one
// sample after another. The fewest bytes to move:
//   forward   mu and the spread once, z, one KL per row
//   backward  the spread, the cotangents of z, both gradients; with the KL also mu and one KL cotangent per row
#pragma once
#include "cuda/launch.cuh"
#include "cuda/load.cuh"
#include "cuda/reduce.cuh"
#include "formulas/gaussian.h"
#include "formulas/philox.h"

namespace aevb::device {

constexpr int kQuad = 4;  // normals of a Philox block
// If nothing is summed, a tile is a few quads for each thread of a warp.
constexpr int kQuadTile = 512;
// Longer rows than this many quads are computed by a thread block: drawing noise takes long, so it pays early.
constexpr int kBlockQuads = 128;

// What is drawn by keys.
struct DrawTask {
  Tiling tiling;
  const int64_t* key;
  bool one_key;
  bool aligned;            // for WholeQuads
  Divisor key_rows;        // where there are several; a row is then a row of the tiling
  int64_t elements;        // of a sample
  int64_t numbers;         // of a key's noise for one sample
  int64_t numbers_before;  // the first sample
};
struct SampleTask : DrawTask {
  int64_t samples;
  Operand mu, spread;
};
struct SampleForward : SampleTask {
  bool of_kl, kl_sums;  // whether the KL is wanted, and summed
  Target z, kl;
};
// The factor has the type of the arithmetic, so that no thread has to convert it.
template <class Factor>
struct SampleBackward : SampleTask {
  int share_log2;  // of the threads that share a quad's samples
  Factor kl_cotangent_scale;
  bool of_z, of_kl;         // which cotangents there are
  bool wanted[2], sums[2];  // which gradients, and of them those that are summed
  Operand z_cotangent, kl_cotangent;
  Target gradient[2];
};

// The noise of one key, as defined in aevb_ext/noise.py.
template <class N>
class Noise {
 public:
  __device__ __forceinline__ explicit Noise(const int64_t* key) : Noise(__ldg(key), __ldg(key + 1)) {}

  // Four normals, or words, from `index` on: of one block if the index is a multiple of four, else of two blocks.
  template <class E>
  __device__ __forceinline__ void draw(int64_t index, E (&eps)[kQuad]) const {
    block(index / kQuad, eps);
    const int skip = index % kQuad;
    if (skip == 0) return;
    E next[kQuad];
    block(index / kQuad + 1, next);
    // Shifted by two, then by one, so that no register is indexed by a number known only at run time.
#pragma unroll
    for (int by = 2; by > 0; --by) {
      const bool shift = skip & by;
#pragma unroll
      for (int j = 0; j < kQuad; ++j)
        eps[j] = select(shift, j + by < kQuad ? eps[j + by] : next[j + by - kQuad], eps[j]);
#pragma unroll
      for (int j = 0; j + by < kQuad; ++j) next[j] = select(shift, next[j + by], next[j]);
    }
  }
  // The four of a block.
  __device__ __forceinline__ void block(int64_t number, Word (&words)[kQuad]) const {
    const PhiloxBlock<Word> counter = {{Word(number), Word(number >> 32), offset_[0], offset_[1]}};
    const PhiloxBlock<Word> drawn = philox4x32_10(counter, keys_);
#pragma unroll
    for (int j = 0; j < kQuad; ++j) words[j] = drawn.word[j];
  }
  __device__ __forceinline__ void block(int64_t number, N (&eps)[kQuad]) const {
    Word words[kQuad];
    block(number, words);
#pragma unroll
    for (int j = 0; j < kQuad; j += 2) box_muller(N(words[j].v), N(words[j + 1].v), eps[j], eps[j + 1]);
  }

 private:
  __device__ __forceinline__ Noise(uint64_t seed, uint64_t offset)
      : keys_(seed, seed >> 32), offset_{Word(offset), Word(offset >> 32)} {}

  PhiloxKeys<Word> keys_;
  Word offset_[2];
};

// Four elements of a tile whose indices, in the first sample, are those of one Philox block. At the ends of a row some
// of them belong to other rows.
struct Quad {
  using Index = int64_t;
  int at, size;  // element 0 of the four, which may be negative; elements in the tile

  __device__ __forceinline__ bool has(int j) const {
    return static_cast<unsigned>(at + j) < static_cast<unsigned>(size);
  }
  template <class T>
  __device__ __forceinline__ bool movable(const T* element_0) const {
    return has(0) && has(kQuad - 1) && aligned<kQuad>(element_0 + at);
  }
  static constexpr bool whole = false;
  // How many numbers of their block are another tile's, if the noise of this one is numbered from `first` on.
  static __device__ __forceinline__ int others(int64_t first) { return first % kQuad; }
};
// One of an aligned task: every quad of every tile is whole and moved as one pack, and 32 bits hold the indices of rows
// and of their elements.
struct WholeQuad {
  using Index = uint32_t;
  int at, size;

  __device__ __forceinline__ bool has(int) const { return true; }
  template <class T>
  __device__ __forceinline__ bool movable(const T*) const {
    return true;
  }
  static constexpr bool whole = true;
  static __device__ __forceinline__ int others(int64_t) { return 0; }
};

// The noise of a tile: that of its rows' key, from number `first` on in the first sample. A sample has `numbers` of
// them.
template <class N>
struct TileNoise {
  Noise<N> of;
  int64_t first;
  const int64_t& numbers;

  // `of_one` is the noise of the only key, if there is a single one.
  template <class Index>
  __device__ __forceinline__ TileNoise(const DrawTask& task, const Noise<N>& of_one, const TileOf<Index>& tile)
      : of(of_one), first(tile.first), numbers(task.numbers) {
    if (!task.one_key) {
      int64_t row = tile.row;
      of = Noise<N>(task.key + 2 * divide(row, task.key_rows));
      first = row * task.tiling.event + tile.start;
    }
    first += task.numbers_before;
  }

  // Goes on by so many samples.
  __device__ __forceinline__ void skip(int64_t samples) { first += samples * numbers; }

  // Four normals, or words, of the sample.
  template <class E>
  __device__ __forceinline__ void draw(const Quad& quad, E (&eps)[kQuad]) const {
    of.draw(first + quad.at, eps);
  }
  template <class E>
  __device__ __forceinline__ void draw(const WholeQuad& quad, E (&eps)[kQuad]) const {
    of.block(static_cast<uint64_t>(first + quad.at) / kQuad, eps);
  }
};

// Calls body(quad) for this thread's quads of a tile; the noise of the tile's elements is numbered from `first` on.
template <class Q, class Body>
__device__ __forceinline__ void for_each_quad(const Tiling& tiling, const TileOf<typename Q::Index>& tile,
                                              int64_t first, Body body) {
  for (int i = tile.lane * kQuad - Q::others(first); i < tile.size; i += tiling.group * kQuad) body(Q{i, tile.size});
}

// An operand at the quads of a tile, one after another. Numbers outside the tile are 1, which is valid in every
// formula. `is_run`: of WholeQuads, it is not a single number.
template <class T, class N, bool is_run = true>
class QuadsOf {
 public:
  __device__ __forceinline__ explicit QuadsOf(const View<T, N>& view) : view_(view) { view.fill(loaded_); }

  __device__ __forceinline__ void load(const WholeQuad& quad, N (&out)[kQuad]) {
    if (is_run)
      loaded_.load(view_.data() + quad.at);
    else
      view_.load(Packs<kQuad>(), quad.at, loaded_);
    numbers(out);
  }
  __device__ __forceinline__ void load(const Quad& quad, N (&out)[kQuad]) {
    if (view_.uniform() || (view_.adjacent() && quad.movable(view_.data()))) {
      view_.load(Packs<kQuad>(), quad.at, loaded_);
      return numbers(out);
    }
#pragma unroll
    for (int j = 0; j < kQuad; ++j) {
      Loaded<typename View<T, N>::Raw, 1> one;
      one.fill(narrow<T>(N(1)));
      if (quad.has(j)) view_.load(Scattered(), quad.at + j, one);
      out[j] = one.template number<N>(0);
    }
  }

 private:
  __device__ __forceinline__ void numbers(N (&out)[kQuad]) const {
#pragma unroll
    for (int j = 0; j < kQuad; ++j) out[j] = loaded_.template number<N>(j);
  }

  View<T, N> view_;
  Loaded<T, kQuad> loaded_;
};

// `data` is element 0 of the tile.
template <class T, class N, class AnyQuad>
__device__ __forceinline__ void store_quad(void* data, const AnyQuad& quad, const N (&value)[kQuad]) {
  T* element_0 = static_cast<T*>(data);
  if (quad.movable(element_0)) {
    store<T>(data, quad.at, value);
  } else {
#pragma unroll
    for (int j = 0; j < kQuad; ++j)
      if (quad.has(j)) element_0[quad.at + j] = narrow<T>(value[j]);
  }
}

template <class T, class AnyQuad>
__device__ __forceinline__ void write_quad(const Result<T>& result, const AnyQuad& quad,
                                           const Number<T> (&value)[kQuad]) {
  if (!AnyQuad::whole && result.is_wide()) return store_quad<typename Wide<T>::type>(result.data, quad, value);
  Number<T> held[kQuad];
  bound<T>(value, held);
  store_quad<T>(result.data, quad, held);
}

template <class N, class AnyQuad>
__device__ __forceinline__ void add(N& sum, const AnyQuad& quad, const N (&value)[kQuad]) {
#pragma unroll
  for (int j = 0; j < kQuad; ++j) sum = sum + select(quad.has(j), value[j], N(0));
}

// Thread blocks with the same blockIdx.x share the samples; the first one also computes the KL.
template <class T, Spread kind, class Q>
__global__ void __launch_bounds__(kBlockThreads, 2) sample_forward(const __grid_constant__ SampleForward task) {
  using N = Number<T>;
  using Index = typename Q::Index;
  const SpreadOf spread = {kind};
  const GaussianKl kl = {spread};
  const Noise<N> of_one(task.key);
  const bool kl_wanted = task.of_kl && blockIdx.y == 0;

  for_each_tile<Index>(task.tiling, [&](const TileOf<Index>& tile) {
    QuadsOf<T, N> mu_of({task.mu, tile.row, tile.start}), spread_of({task.spread, tile.row, tile.start});
    TileNoise<N> noise(task, of_one, tile);
    noise.skip(blockIdx.y);
    const Result<T> kl_to(task.kl, tile);
    T* const z_to = static_cast<T*>(task.z.data) + tile.first + blockIdx.y * task.elements;
    N sum[1] = {N(0)};
    for_each_quad<Q>(task.tiling, tile, noise.first, [&](const Q& quad) {
      N mu[kQuad], s[kQuad], std[kQuad], variance[kQuad];
      mu_of.load(quad, mu);
      spread_of.load(quad, s);
#pragma unroll
      for (int j = 0; j < kQuad; ++j) spread.std_and_var(s[j], std[j], variance[j]);

      TileNoise<N> noise_of_sample = noise;
      T* to = z_to;
      int64_t sample = blockIdx.y;
      while (true) {
        N z[kQuad];
        noise_of_sample.draw(quad, z);
#pragma unroll
        for (int j = 0; j < kQuad; ++j) z[j] = fma(std[j], z[j], mu[j]);
        store_quad<T>(to, quad, z);
        sample += gridDim.y;
        if (sample >= task.samples) break;
        to += gridDim.y * task.elements;
        noise_of_sample.skip(gridDim.y);
      }
      if (!kl_wanted) return;
      N value[kQuad];
#pragma unroll
      for (int j = 0; j < kQuad; ++j) value[j] = kl.value(mu[j], s[j], variance[j]);
      if (task.kl_sums)
        add(sum[0], quad, value);
      else
        write_quad(kl_to, quad, value);
    });
    if (!kl_wanted || !task.kl_sums) return;
    group_sum(sum, task.tiling.group);
    if (tile.lane == 0 && tile.size > 0) store<typename Wide<T>::type>(task.kl.data, tile.index, sum);
  });
}

// The sum over the threads that share a quad. Every thread of the warp has to call this.
template <class N>
__device__ __forceinline__ void add_shares(N (&part)[kQuad], int share) {
#pragma unroll
  for (int j = 0; j < kQuad; ++j) part[j] = add_across(part[j], share);
}

// d/dmu = sum_l g_l,  d/ds = d sigma/ds sum_l g_l eps_l,  and the KL's part of each. The noise is drawn again.
template <class T, Spread kind, class Q>
__global__ void __launch_bounds__(kBlockThreads, std::is_same_v<T, double> ? 1 : 2)
    sample_backward(const __grid_constant__ SampleBackward<typename Wide<T>::type> task) {
  using N = Number<T>;
  using W = typename Wide<T>::type;
  using Index = typename Q::Index;
  const SpreadOf spread = {kind};
  const GaussianKl kl = {spread};
  const Noise<N> of_one(task.key);
  const N kl_scale(task.kl_cotangent_scale);
  // Of many samples a few elements would leave most of the device idle: threads share them. They are not WholeQuads.
  const int share_log2 = Q::whole ? 0 : task.share_log2, share = 1 << share_log2, part = threadIdx.x & (share - 1);

  for_each_tile<Index>(task.tiling, [&](const TileOf<Index>& tile) {
    const auto z_cotangent_of = [&](int64_t sample) {
      const Index row = static_cast<Index>(sample * task.tiling.rows) + tile.row;
      return QuadsOf<T, N>(view_if<T, N>(task.of_z, task.z_cotangent, row, tile.start));
    };
    QuadsOf<T, N> spread_of({task.spread, tile.row, tile.start}), first_z_cotangent = z_cotangent_of(part);
    QuadsOf<T, N> mu_of(view_if<T, N>(task.of_kl, task.mu, tile.row, tile.start));
    QuadsOf<W, N, false> kl_cotangent_of(view_if<W, N>(task.of_kl, task.kl_cotangent, tile.row, tile.start));
    TileNoise<N> noise(task, of_one, tile);
    noise.skip(part);
    Result<T> to[2];
#pragma unroll
    for (int k = 0; k < 2; ++k) to[k] = Result<T>(task.gradient[k], tile);
    N sum[2] = {N(0), N(0)};

    // As many rounds for each thread, so that those of a warp meet where they add their shares.
    const int step = (task.tiling.group >> share_log2) * kQuad;
    const int last = static_cast<int>(task.tiling.event < task.tiling.block ? task.tiling.event : task.tiling.block) +
                     (Q::whole ? 0 : kQuad - 1);
    Q quad = {(tile.lane >> share_log2) * kQuad - Q::others(noise.first), tile.size};
    for (int from = 0; from < last; from += step, quad.at += step) {
      const bool here = quad.at < tile.size;
      N gradient[2][kQuad];
#pragma unroll
      for (int j = 0; j < kQuad; ++j) gradient[0][j] = gradient[1][j] = N(0);
      if (task.of_z && here) {
        QuadsOf<T, N> z_cotangent = first_z_cotangent;
        TileNoise<N> noise_of_sample = noise;
        int64_t sample = part;
        while (true) {
          N g[kQuad], eps[kQuad];
          z_cotangent.load(quad, g);
          noise_of_sample.draw(quad, eps);
#pragma unroll
          for (int j = 0; j < kQuad; ++j) {
            gradient[0][j] = gradient[0][j] + g[j];
            gradient[1][j] = fma(g[j], eps[j], gradient[1][j]);
          }
          sample += share;
          if (sample >= task.samples) break;
          z_cotangent = z_cotangent_of(sample);
          noise_of_sample.skip(share);
        }
      }
      if (share > 1) {
        add_shares(gradient[0], share);
        add_shares(gradient[1], share);
      }
      if (!here || part != 0) continue;

      N s[kQuad], std[kQuad], variance[kQuad], slope[kQuad];
      spread_of.load(quad, s);
#pragma unroll
      for (int j = 0; j < kQuad; ++j) {
        spread.std_and_var(s[j], std[j], variance[j]);
        slope[j] = spread.std_slope_at(std[j]);
      }
      if (task.of_z) chain(gradient[1], slope, gradient[1]);
      if (task.of_kl) {
        N mu[kQuad], g[kQuad], d[2][kQuad];
        mu_of.load(quad, mu);
        kl_cotangent_of.load(quad, g);
#pragma unroll
        for (int j = 0; j < kQuad; ++j) {
          kl.gradient(mu[j], s[j], variance[j], d[0][j], d[1][j]);
          g[j] = g[j] * kl_scale;
        }
#pragma unroll
        for (int k = 0; k < 2; ++k) {
          chain(g, d[k], d[k]);
#pragma unroll
          for (int j = 0; j < kQuad; ++j) gradient[k][j] = gradient[k][j] + d[k][j];
        }
      }
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        if (task.sums[k])
          add(sum[k], quad, gradient[k]);
        else if (task.wanted[k])
          write_quad(to[k], quad, gradient[k]);
      }
    }
    if (!task.sums[0] && !task.sums[1]) return;
    group_sum(sum, task.tiling.group);
    if (tile.lane != 0 || tile.size == 0) return;
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const N total[1] = {sum[k]};
      if (task.sums[k]) store<W>(task.gradient[k].data, tile.index, total);
    }
  });
}

// ---- From the call to the kernel ----

// What SampleCall and BinarizeCall have in common. `flat`: the rows of one key may be one row.
template <class Call>
void set_draws(DrawTask& task, const Call& call, bool flat, bool summed, int threads_each = 1) {
  task.tiling = tile(flat ? 1 : call.rows, flat ? call.rows * call.event : call.event, summed ? kBlock : kQuadTile,
                     kQuad, kBlockQuads, true, threads_each);
  task.key = call.key;
  task.one_key = call.key_rows == call.rows;
  task.key_rows = Divisor(call.key_rows);
  task.elements = call.rows * call.event;
  task.numbers = call.key_rows * call.event;
  task.numbers_before = call.first_sample * task.numbers;
}

// Whether the quads of each sample's tiles are blocks of the noise, if they are of the first sample's, and 32 bits hold
// the numbers of rows.
inline bool samples_aligned(const DrawTask& task, int64_t samples) {
  return is_narrow(samples * task.tiling.rows) && (samples == 1 || task.numbers % kQuad == 0) &&
         task.numbers_before % kQuad == 0;
}

inline SampleTask task_of(const SampleCall& call, int threads_each = 1) {
  const bool summed = call.kl.per_block || call.gradient[0].per_block || call.gradient[1].per_block;
  const bool flat = call.key_rows == call.rows && !summed && is_one_run(call.mu) && is_one_run(call.spread) &&
                    is_one_run(call.z_cotangent) && is_one_run(call.kl_cotangent) && !call.kl.layout &&
                    !call.gradient[0].layout && !call.gradient[1].layout;
  SampleTask task;
  set_draws(task, call, flat, summed, threads_each);
  task.samples = call.samples;
  task.mu = Operand(call.mu, task.tiling.event);
  task.spread = Operand(call.spread, task.tiling.event);
  Alignment alignment(task.tiling, kQuad);
  task.aligned = true;
  for (const Operand& in : {task.mu, task.spread, Operand(call.z_cotangent, task.tiling.event)}) {
    alignment.include(in);
    task.aligned = task.aligned && (!in.data || in.along == Along::run);
  }
  alignment.include(Operand(call.kl_cotangent, task.tiling.event));
  for (const Output& out : {call.z, call.kl, call.gradient[0], call.gradient[1]}) {
    alignment.include(Target(out, call.event));
    task.aligned = task.aligned && (!out.data || out.per_block || out.type == call.spread.type);
  }
  task.aligned = task.aligned && alignment.holds() && samples_aligned(task, call.samples);
  return task;
}

struct DrawForward {
  template <class T, Spread kind>
  static cudaError_t run(const SampleCall& call, cudaStream_t stream) {
    const bool of_kl = call.kl.data;
    const SampleForward task = {task_of(call), of_kl, of_kl && call.kl.per_block, Target(call.z, call.event),
                                Target(call.kl, call.event)};
    // Samples are distributed until there is work for some hundred thousand threads.
    constexpr int64_t blocks_wanted = 2048, most = 65535;
    const unsigned grid = task.tiling.grid();
    const int64_t share = std::min(std::max<int64_t>(blocks_wanted / grid, 1), std::min(call.samples, most));
    auto* kernel = sample_forward<T, kind, Quad>;
    if constexpr (!std::is_same_v<T, double>)  // whose arithmetic outweighs what a WholeQuad spares
      if (task.aligned) kernel = sample_forward<T, kind, WholeQuad>;
    return launch(kernel, dim3(grid, static_cast<unsigned>(share)), task.tiling.threads(), stream, task);
  }
};

struct DrawBackward {
  template <class T, Spread kind>
  static cudaError_t run(const SampleCall& call, cudaStream_t stream) {
    using Factor = typename Wide<T>::type;
    // It depends on the samples alone, so that a row's gradient does not depend on how many others there are.
    const int share_log2 = call.samples < 16 ? 0 : 3;
    SampleBackward<Factor> task;
    static_cast<SampleTask&>(task) = task_of(call, 1 << share_log2);
    task.aligned = task.aligned && share_log2 == 0;
    task.share_log2 = share_log2;
    task.kl_cotangent_scale = static_cast<Factor>(call.kl_cotangent_scale);
    for (int k = 0; k < 2; ++k) {
      task.gradient[k] = Target(call.gradient[k], call.event);
      task.wanted[k] = call.gradient[k].data;
      task.sums[k] = task.wanted[k] && call.gradient[k].per_block;
    }
    task.of_z = call.z_cotangent.data, task.of_kl = call.kl_cotangent.data;
    if (call.z_cotangent.data) {
      if (call.z_cotangent.type != kType<T>) return cudaErrorInvalidValue;
      task.z_cotangent = Operand(call.z_cotangent, task.tiling.event);
    }
    if (call.kl_cotangent.data) task.kl_cotangent = Operand(call.kl_cotangent, task.tiling.event);
    auto* kernel = sample_backward<T, kind, Quad>;
    if constexpr (!std::is_same_v<T, double>)
      if (task.aligned) kernel = sample_backward<T, kind, WholeQuad>;
    return launch(kernel, task.tiling.grid(), task.tiling.threads(), stream, task);
  }
};

template <class Direction, class T>
cudaError_t with_spread(const SampleCall& call, cudaStream_t stream) {
  switch (call.params.spread) {
    case Spread::log_std: return Direction::template run<T, Spread::log_std>(call, stream);
    case Spread::std: return Direction::template run<T, Spread::std>(call, stream);
    case Spread::var: return Direction::template run<T, Spread::var>(call, stream);
    default: return Direction::template run<T, Spread::logvar>(call, stream);
  }
}

template <class Direction>
cudaError_t run(const SampleCall& call, cudaStream_t stream) {
  switch (call.spread.type) {  // also mu's type, but a backward without the KL has no mu
    case Type::f64: return with_spread<Direction, double>(call, stream);
    case Type::f32: return with_spread<Direction, float>(call, stream);
    case Type::bf16: return with_spread<Direction, __nv_bfloat16>(call, stream);
    case Type::f16: return with_spread<Direction, __half>(call, stream);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace aevb::device
