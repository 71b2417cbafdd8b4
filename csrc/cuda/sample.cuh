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
// If nothing is summed, a tile is one quad for each thread of a warp.
constexpr int kQuadTile = kQuad * kWarp;
// Longer rows than this many quads are computed by a thread block: drawing noise takes long, so it pays early.
constexpr int kBlockQuads = 128;

// What is drawn by keys.
struct DrawTask {
  Tiling tiling;
  int64_t first_sample;
  const int64_t* key;
  bool one_key;
  Divisor key_rows;  // where there are several; a row is then a row of the tiling
};
struct SampleTask : DrawTask {
  int64_t samples;
  Operand mu, spread;
};
struct SampleForward : SampleTask {
  Output z, kl;
};
struct SampleBackward : SampleTask {
  Operand z_cotangent, kl_cotangent;
  double kl_cotangent_scale;
  Output gradient[2];
};

// The noise of one key, as defined in aevb_ext/noise.py.
template <class N>
class Noise {
 public:
  __device__ __forceinline__ explicit Noise(const int64_t* key) : seed_(__ldg(key)), offset_(__ldg(key + 1)) {}

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

 private:
  __device__ __forceinline__ void block(int64_t number, Word (&words)[kQuad]) const {
    const PhiloxBlock<Word> counter = {{Word(number), Word(number >> 32), Word(offset_), Word(offset_ >> 32)}};
    const PhiloxBlock<Word> drawn = philox4x32_10(counter, PhiloxKeys<Word>(seed_, seed_ >> 32));
#pragma unroll
    for (int j = 0; j < kQuad; ++j) words[j] = drawn.word[j];
  }
  __device__ __forceinline__ void block(int64_t number, N (&eps)[kQuad]) const {
    Word words[kQuad];
    block(number, words);
#pragma unroll
    for (int j = 0; j < kQuad; j += 2) box_muller(N(words[j].v), N(words[j + 1].v), eps[j], eps[j + 1]);
  }

  uint64_t seed_, offset_;
};

// The noise of a tile: that of its rows' key, from number `first` on in the first sample. A sample has `numbers` of
// them.
template <class N>
struct TileNoise {
  Noise<N> of;
  int64_t first, numbers;

  // `of_one` is the noise of the only key, if there is a single one.
  __device__ __forceinline__ TileNoise(const DrawTask& task, const Noise<N>& of_one, const Tile& tile)
      : of(of_one), first(tile.first), numbers(task.tiling.rows * task.tiling.event) {
    if (!task.one_key) {
      int64_t row = tile.row;
      of = Noise<N>(task.key + 2 * divide(row, task.key_rows));
      first = row * task.tiling.event + tile.start;
      numbers = int64_t(task.key_rows.value) * task.tiling.event;
    }
    first += task.first_sample * numbers;
  }
};

// Four elements of a tile whose indices, in the first sample, are those of one Philox block. At the ends of a row some
// of them belong to other rows.
struct Quad {
  int at, size;  // element 0 of the four, which may be negative; elements in the tile

  __device__ __forceinline__ bool has(int j) const {
    return static_cast<unsigned>(at + j) < static_cast<unsigned>(size);
  }
  __device__ __forceinline__ bool whole() const { return has(0) && has(kQuad - 1); }
};

// Calls body(quad) for this thread's quads of a tile; the noise of the tile's elements is numbered from `first` on.
template <class Body>
__device__ __forceinline__ void for_each_quad(const Tile& tile, int64_t first, int group, Body body) {
  const int head = first % kQuad;
  for (int i = tile.lane * kQuad - head; i < tile.size; i += group * kQuad) body(Quad{i, tile.size});
}

// Numbers outside the tile are 1, which is valid in every formula.
template <class T, class N>
__device__ __forceinline__ void load(const View<T, N>& view, const Quad& quad, N (&out)[kQuad]) {
  if (quad.whole() && view.adjacent() && aligned<kQuad>(view.data() + quad.at)) {
    const Pack<T, kQuad> pack = view.get(Packs<kQuad>(), quad.at);
#pragma unroll
    for (int j = 0; j < kQuad; ++j) out[j] = view.number(pack.v[j]);
  } else {
#pragma unroll
    for (int j = 0; j < kQuad; ++j) out[j] = quad.has(j) ? view.number(view.get(Scattered(), quad.at + j).v[0]) : N(1);
  }
}

template <class T>
__device__ __forceinline__ void store(void* data, int64_t first, const Quad& quad, const Number<T> (&value)[kQuad]) {
  T* to = static_cast<T*>(data) + first + quad.at;
  if (quad.whole() && aligned<kQuad>(to)) {
    store<T>(to, 0, value);
  } else {
#pragma unroll
    for (int j = 0; j < kQuad; ++j)
      if (quad.has(j)) to[j] = narrow<T>(value[j]);
  }
}

// Of a type that is narrower than the arithmetic, `value` is a gradient.
template <class T>
__device__ __forceinline__ void write(const Output& out, int64_t first, const Quad& quad,
                                      const Number<T> (&value)[kQuad]) {
  if (out.type != kType<T>) return store<typename Wide<T>::type>(out.data, first, quad, value);
  Number<T> held[kQuad];
#pragma unroll
  for (int j = 0; j < kQuad; ++j) held[j] = bounded<T>(value[j]);
  store<T>(out.data, first, quad, held);
}

template <class N>
__device__ __forceinline__ void add(N& sum, const Quad& quad, const N (&value)[kQuad]) {
#pragma unroll
  for (int j = 0; j < kQuad; ++j) sum = sum + select(quad.has(j), value[j], N(0));
}

// Thread blocks with the same blockIdx.x share the samples; the first one also computes the KL.
template <class T, Spread kind>
__global__ void __launch_bounds__(kBlockThreads, std::is_same_v<T, double> ? 2 : 3)
    sample_forward(const __grid_constant__ SampleForward task) {
  using N = Number<T>;
  const SpreadOf spread = {kind};
  const GaussianKl kl = {spread};
  const Noise<N> of_one(task.key);
  const int64_t elements = task.tiling.rows * task.tiling.event;
  const bool kl_wanted = task.kl.data && blockIdx.y == 0;

  for_each_tile(task.tiling, [&](const Tile& tile) {
    const View<T, N> mu_of(task.mu, tile.row, tile.start), spread_of(task.spread, tile.row, tile.start);
    const TileNoise<N> noise(task, of_one, tile);
    N sum[1] = {N(0)};
    for_each_quad(tile, noise.first, task.tiling.group, [&](const Quad& quad) {
      N mu[kQuad], s[kQuad], std[kQuad];
      load(mu_of, quad, mu);
      load(spread_of, quad, s);
#pragma unroll
      for (int j = 0; j < kQuad; ++j) std[j] = spread.std(s[j]);

      for (int64_t sample = blockIdx.y; sample < task.samples; sample += gridDim.y) {
        const int64_t first = sample * elements + tile.first;
        N z[kQuad];
        noise.of.draw(sample * noise.numbers + noise.first + quad.at, z);
#pragma unroll
        for (int j = 0; j < kQuad; ++j) z[j] = fma(std[j], z[j], mu[j]);
        store<T>(task.z.data, first, quad, z);
      }
      if (!kl_wanted) return;
      N value[kQuad];
#pragma unroll
      for (int j = 0; j < kQuad; ++j) value[j] = kl.value(mu[j], s[j]);
      if (task.kl.per_block)
        add(sum[0], quad, value);
      else
        write<T>(task.kl, tile.first, quad, value);
    });
    if (!kl_wanted || !task.kl.per_block) return;
    group_sum(sum, task.tiling.group);
    if (tile.lane == 0 && tile.size > 0) store<typename Wide<T>::type>(task.kl.data, tile.index, sum);
  });
}

// d/dmu = sum_l g_l,  d/ds = d sigma/ds sum_l g_l eps_l,  and the KL's part of each. The noise is drawn again.
template <class T, Spread kind>
__global__ void __launch_bounds__(kBlockThreads, std::is_same_v<T, double> ? 1 : 3)
    sample_backward(const __grid_constant__ SampleBackward task) {
  using N = Number<T>;
  using W = typename Wide<T>::type;
  const SpreadOf spread = {kind};
  const GaussianKl kl = {spread};
  const Noise<N> of_one(task.key);
  const N kl_scale(task.kl_cotangent_scale);
  const bool z_wanted = task.z_cotangent.data, kl_wanted = task.kl_cotangent.data;
  const bool summed = task.gradient[0].per_block || task.gradient[1].per_block;

  for_each_tile(task.tiling, [&](const Tile& tile) {
    const View<T, N> spread_of(task.spread, tile.row, tile.start);
    const TileNoise<N> noise(task, of_one, tile);
    N sum[2] = {N(0), N(0)};
    for_each_quad(tile, noise.first, task.tiling.group, [&](const Quad& quad) {
      N s[kQuad], gradient[2][kQuad];
      load(spread_of, quad, s);
#pragma unroll
      for (int j = 0; j < kQuad; ++j) gradient[0][j] = gradient[1][j] = N(0);

      if (z_wanted) {
        for (int64_t sample = 0; sample < task.samples; ++sample) {
          const View<T, N> cotangent_of(task.z_cotangent, sample * task.tiling.rows + tile.row, tile.start);
          N g[kQuad], eps[kQuad];
          load(cotangent_of, quad, g);
          noise.of.draw(sample * noise.numbers + noise.first + quad.at, eps);
#pragma unroll
          for (int j = 0; j < kQuad; ++j) {
            gradient[0][j] = gradient[0][j] + g[j];
            gradient[1][j] = fma(g[j], eps[j], gradient[1][j]);
          }
        }
#pragma unroll
        for (int j = 0; j < kQuad; ++j) gradient[1][j] = chain(gradient[1][j], spread.std_slope(s[j]));
      }
      if (kl_wanted) {
        const View<T, N> mu_of(task.mu, tile.row, tile.start);
        const View<W, N> cotangent_of(task.kl_cotangent, tile.row, tile.start);
        N mu[kQuad], g[kQuad];
        load(mu_of, quad, mu);
        load(cotangent_of, quad, g);
#pragma unroll
        for (int j = 0; j < kQuad; ++j) {
          N dmu, ds;
          kl.gradient(mu[j], s[j], dmu, ds);
          g[j] = g[j] * kl_scale;
          gradient[0][j] = gradient[0][j] + chain(g[j], dmu);
          gradient[1][j] = gradient[1][j] + chain(g[j], ds);
        }
      }
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        if (!task.gradient[k].data) continue;
        if (task.gradient[k].per_block)
          add(sum[k], quad, gradient[k]);
        else
          write<T>(task.gradient[k], tile.first, quad, gradient[k]);
      }
    });
    if (!summed) return;
    group_sum(sum, task.tiling.group);
    if (tile.lane != 0 || tile.size == 0) return;
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const N total[1] = {sum[k]};
      if (task.gradient[k].data && task.gradient[k].per_block) store<W>(task.gradient[k].data, tile.index, total);
    }
  });
}

// ---- From the call to the kernel ----

inline SampleTask task_of(const SampleCall& call) {
  const bool summed = call.kl.per_block || call.gradient[0].per_block || call.gradient[1].per_block;
  const bool one_key = call.key_rows == call.rows;
  const bool flat = one_key && !summed && is_one_run(call.mu) && is_one_run(call.spread) &&
                    is_one_run(call.z_cotangent) && is_one_run(call.kl_cotangent);
  SampleTask task;
  task.tiling = tile(flat ? 1 : call.rows, flat ? call.rows * call.event : call.event, summed ? kBlock : kQuadTile,
                     kQuad, kBlockQuads);
  task.samples = call.samples;
  task.first_sample = call.first_sample;
  task.key = call.key;
  task.one_key = one_key;
  task.key_rows = Divisor(call.key_rows);
  task.mu = Operand(call.mu, task.tiling.event);
  task.spread = Operand(call.spread, task.tiling.event);
  return task;
}

struct DrawForward {
  template <class T, Spread kind>
  static cudaError_t run(const SampleCall& call, cudaStream_t stream) {
    const SampleForward task = {task_of(call), call.z, call.kl};
    // Samples are distributed until there is work for some hundred thousand threads.
    constexpr int64_t blocks_wanted = 2048, most = 65535;
    const unsigned grid = task.tiling.grid();
    const int64_t share = std::min(std::max<int64_t>(blocks_wanted / grid, 1), std::min(call.samples, most));
    return launch(sample_forward<T, kind>, dim3(grid, static_cast<unsigned>(share)), task.tiling.threads(), stream,
                  task);
  }
};

struct DrawBackward {
  template <class T, Spread kind>
  static cudaError_t run(const SampleCall& call, cudaStream_t stream) {
    SampleBackward task = {task_of(call), {}, {}, call.kl_cotangent_scale, {call.gradient[0], call.gradient[1]}};
    if (call.z_cotangent.data) {
      if (call.z_cotangent.type != kType<T>) return cudaErrorInvalidValue;
      task.z_cotangent = Operand(call.z_cotangent, task.tiling.event);
    }
    if (call.kl_cotangent.data) task.kl_cotangent = Operand(call.kl_cotangent, task.tiling.event);
    return launch(sample_backward<T, kind>, task.tiling.grid(), task.tiling.threads(), stream, task);
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
