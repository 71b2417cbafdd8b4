// A formula over rows: its values and their sums, or the gradients of its operands.
//
// Every operand is read once and every result written once, which is also the fewest bytes to move:
//   forward   the operands, and one number per row (or per element, if nothing is summed)
//   backward  the operands, the cotangents (one per row, or per element), and the wanted gradients
// A broadcast operand is read from the cache after the first time.
#pragma once
#include "cuda/launch.cuh"
#include "cuda/load.cuh"
#include "cuda/reduce.cuh"
#include "cuda/rows.h"
#include "formulas/bernoulli.h"
#include "formulas/gaussian.h"

namespace aevb::device {

// If nothing is summed, a tile is the work of a warp in a few rounds.
constexpr int kElementTile = 512;
// Rows of more than this many packs are summed by a thread block.
constexpr int kBlockUnits = 256;

// Elements of a pack, the unit of work in aligned memory. For double one is enough, since its code is long.
template <class T>
constexpr int kPack = sizeof(T) < 8 ? kWide / sizeof(T) : 1;
// Elements that a thread has in flight if memory is not aligned.
constexpr int kSinglesInFlight = 4;

// The same formulas with the spread known to the compiler.
template <class F, Spread spread>
AEVB_INLINE F formula(double x_scale) {
  if constexpr (!has_spread<F>)
    return {x_scale};
  else if constexpr (has_x_scale<F>)
    return {x_scale, {spread}};
  else
    return {{spread}};
}

template <class F, class N>
__device__ __forceinline__ N value_of(const F& f, const N (&in)[F::arity]) {
  if constexpr (F::arity == 2) return f.value(in[0], in[1]);
  if constexpr (F::arity == 3) return f.value(in[0], in[1], in[2]);
  if constexpr (F::arity == 4) return f.value(in[0], in[1], in[2], in[3]);
}
template <class F, class N>
__device__ __forceinline__ void gradient_of(const F& f, const N (&in)[F::arity], N (&d)[F::arity]) {
  if constexpr (F::arity == 2) f.gradient(in[0], in[1], d[0], d[1]);
  if constexpr (F::arity == 3) f.gradient(in[0], in[1], in[2], d[0], d[1], d[2]);
  if constexpr (F::arity == 4) f.gradient(in[0], in[1], in[2], in[3], d[0], d[1], d[2], d[3]);
}

// Factors have the type of the arithmetic, so that no thread has to convert them.
template <class Factor>
struct RowTask {
  Tiling tiling;
  Factor x_scale;
  Operand in[4];
};
template <class Factor>
struct RowForward : RowTask<Factor> {
  Output value;
};
template <class Factor>
struct RowBackward : RowTask<Factor> {
  Operand cotangent;
  Factor cotangent_scale;
  Output gradient[4];
};

// The part of a tile where packs of V elements are aligned for every operand and result alike.
template <int V>
class Packed {
 public:
  // Where the first aligned pack of `element`-sized numbers begins, if `data` is element 0 of the tile.
  __device__ __forceinline__ void include(const void* data, int element) {
    const int period = (V * element < kWide ? V * element : kWide) / element;
    const int head = -static_cast<int>(reinterpret_cast<uintptr_t>(data) / element) & (period - 1);
    const int common = (period < period_ ? period : period_) - 1;
    if ((head ^ head_) & common) exclude();
    if (period > period_) period_ = period, head_ = head;
  }
  template <class T, class N>
  __device__ __forceinline__ void include(const View<T, N>& view) {
    if (view.uniform()) return;
    scattered_ |= view.scattered();
    if (view.adjacent())
      include(view.data(), sizeof(typename View<T, N>::Raw));
    else
      exclude();
  }
  template <class T>
  __device__ __forceinline__ void include(const Output& out, int64_t first) {
    if (!out.data || out.per_block) return;
    const int element = out.type == kType<T> ? sizeof(T) : sizeof(Number<T>);
    include(static_cast<const char*>(out.data) + first * element, element);
  }
  __device__ __forceinline__ void exclude() { possible_ = false; }

  __device__ __forceinline__ bool scattered() const { return scattered_; }
  __device__ __forceinline__ int begin() const { return head_; }
  __device__ __forceinline__ int packs(int size) const { return possible_ && size > head_ ? (size - head_) / V : 0; }

 private:
  int head_ = 0, period_ = 1;
  bool possible_ = true, scattered_ = false;
};

// For `count` runs of elements, the k-th from element place(k) on: calls work.load for several and then work.use.
template <int in_flight, class Way, class Work, class Place>
__device__ __forceinline__ void sweep(Way way, Work& work, int count, int lane, int group, Place place) {
  for (int k = lane; k < count; k += in_flight * group) {
    decltype(work.load(way, 0)) loaded[in_flight];
#pragma unroll
    for (int u = 0; u < in_flight; ++u)
      if (k + u * group < count) loaded[u] = work.load(way, place(k + u * group));
#pragma unroll
    for (int u = 0; u < in_flight; ++u)
      if (k + u * group < count) work.use(place(k + u * group), loaded[u]);
  }
}

// Processes the elements of a tile: those in packs, then the rest, one by one.
template <int V, class Work>
__device__ __forceinline__ void sweep_tile(Work& work, const Tile& tile, int group, const Packed<V>& packed) {
  if (packed.scattered()) return sweep<1>(Scattered(), work, tile.size, tile.lane, group, [](int k) { return k; });
  int begin = 0, packs = 0;
  if constexpr (V > 1) {
    begin = packed.begin(), packs = packed.packs(tile.size);
    constexpr int in_flight = Work::In::arity == 2 && V <= 4 ? 2 : 1;
    sweep<in_flight>(Packs<V>(), work, packs, tile.lane, group, [=](int k) { return begin + k * V; });
  }
  sweep<kSinglesInFlight>(Singles(), work, tile.size - packs * V, tile.lane, group,
                          [=](int k) { return packs == 0 || k < begin ? k : k + packs * V; });
}

// Of a type that is narrower than the arithmetic, `value` is a gradient.
template <class T, int W>
__device__ __forceinline__ void write(const Output& out, int64_t at, const Number<T> (&value)[W]) {
  if (out.type != kType<T>) return store<typename Wide<T>::type>(out.data, at, value);
  Number<T> held[W];
#pragma unroll
  for (int j = 0; j < W; ++j) held[j] = bounded<T>(value[j]);
  store<T>(out.data, at, held);
}

// The operands within a tile: the first of type X, the others of type T.
template <int count, class T, class X>
struct Operands {
  static constexpr int arity = count;
  using N = Number<T>;
  View<X, N> first;
  View<T, N> rest[arity - 1];

  template <int W>
  struct Loaded {
    Pack<typename View<X, N>::Raw, W> first;
    Pack<T, W> rest[arity - 1];
  };

  __device__ __forceinline__ Operands(const Operand* in, const Tile& tile) : first(in[0], tile.row, tile.start) {
#pragma unroll
    for (int k = 0; k < arity - 1; ++k) rest[k] = View<T, N>(in[k + 1], tile.row, tile.start);
  }
  template <int V>
  __device__ __forceinline__ void limit(Packed<V>& packed) const {
    packed.include(first);
#pragma unroll
    for (int k = 0; k < arity - 1; ++k) packed.include(rest[k]);
  }
  template <class Way>
  __device__ __forceinline__ Loaded<Way::width> load(Way way, int i) const {
    Loaded<Way::width> loaded;
    loaded.first = first.get(way, i);
#pragma unroll
    for (int k = 0; k < arity - 1; ++k) loaded.rest[k] = rest[k].get(way, i);
    return loaded;
  }
  template <int W>
  __device__ __forceinline__ void numbers(const Loaded<W>& loaded, int j, N (&out)[arity]) const {
    out[0] = first.number(loaded.first.v[j]);
#pragma unroll
    for (int k = 0; k < arity - 1; ++k) out[k + 1] = rest[k].number(loaded.rest[k].v[j]);
  }
};

template <class F, class T, class X>
struct ForwardWork {
  using N = Number<T>;
  using In = Operands<F::arity, T, X>;
  const F& formula;
  const Output& out;
  const In& in;
  int64_t first;  // the flat index of the tile's element 0
  N sum[1];

  template <class Way>
  __device__ __forceinline__ auto load(Way way, int i) const {
    return in.load(way, i);
  }
  template <int W>
  __device__ __forceinline__ void use(int i, const typename In::template Loaded<W>& loaded) {
    N value[W];
#pragma unroll
    for (int j = 0; j < W; ++j) {
      N operands[F::arity];
      in.numbers(loaded, j, operands);
      value[j] = value_of(formula, operands);
      sum[0] = sum[0] + value[j];
    }
    if (!out.per_block) write<T>(out, first + i, value);
  }
};

template <class F, Spread spread, class T, class X>
__global__ void __launch_bounds__(kBlockThreads, std::is_same_v<T, double> ? 1
                                                 : F::arity == 4           ? 2
                                                                           : 3)
    row_forward(const __grid_constant__ RowForward<typename Wide<T>::type> task) {
  using N = Number<T>;
  const F formula = device::formula<F, spread>(task.x_scale);
  const int group = task.tiling.group;
  for_each_tile(task.tiling, [&](const Tile& tile) {
    const Operands<F::arity, T, X> in(task.in, tile);
    Packed<kPack<T>> packed;
    in.limit(packed);
    packed.template include<T>(task.value, tile.first);

    ForwardWork<F, T, X> work = {formula, task.value, in, tile.first, {N(0)}};
    sweep_tile(work, tile, group, packed);
    if (!task.value.per_block) return;
    group_sum(work.sum, group);
    if (tile.lane == 0 && tile.size > 0) write<typename Wide<T>::type>(task.value, tile.index, work.sum);
  });
}

template <class F, class T, class X>
struct BackwardWork {
  using N = Number<T>;
  using In = Operands<F::arity, T, X>;
  const F& formula;
  const Output* out;
  const In& in;
  const View<typename Wide<T>::type, N>& cotangent;
  N scale;
  int64_t first;
  N sum[F::arity];

  template <int W>
  struct Loaded {
    typename In::template Loaded<W> in;
    Pack<typename Wide<T>::type, W> cotangent;
  };

  template <class Way>
  __device__ __forceinline__ Loaded<Way::width> load(Way way, int i) const {
    return {in.load(way, i), cotangent.get(way, i)};
  }
  template <int W>
  __device__ __forceinline__ void use(int i, const Loaded<W>& loaded) {
    N gradient[F::arity][W];
#pragma unroll
    for (int j = 0; j < W; ++j) {
      N operands[F::arity], derivative[F::arity];
      in.numbers(loaded.in, j, operands);
      gradient_of(formula, operands, derivative);
      const N c = cotangent.number(loaded.cotangent.v[j]) * scale;
#pragma unroll
      for (int k = 0; k < F::arity; ++k) gradient[k][j] = chain(c, derivative[k]);
    }
#pragma unroll
    for (int k = 0; k < F::arity; ++k) {
      if (!out[k].data) continue;
      if (!out[k].per_block) {
        write<T>(out[k], first + i, gradient[k]);
        continue;
      }
#pragma unroll
      for (int j = 0; j < W; ++j) sum[k] = sum[k] + gradient[k][j];
    }
  }
};

template <class F, Spread spread, class T, class X>
__global__ void __launch_bounds__(kBlockThreads, std::is_same_v<T, double> ? 1 : 2)
    row_backward(const __grid_constant__ RowBackward<typename Wide<T>::type> task) {
  using N = Number<T>;
  const F formula = device::formula<F, spread>(task.x_scale);
  const int group = task.tiling.group;
  bool summed = false;
#pragma unroll
  for (int k = 0; k < F::arity; ++k) summed |= task.gradient[k].per_block;

  for_each_tile(task.tiling, [&](const Tile& tile) {
    const Operands<F::arity, T, X> in(task.in, tile);
    using Cotangent = View<typename Wide<T>::type, N>;
    const Cotangent cotangent =
        task.cotangent.data ? Cotangent(task.cotangent, tile.row, tile.start) : Cotangent(task.cotangent, N(1));
    Packed<kPack<T>> packed;
    in.limit(packed);
    packed.include(cotangent);
#pragma unroll
    for (int k = 0; k < F::arity; ++k) packed.template include<T>(task.gradient[k], tile.first);

    BackwardWork<F, T, X> work = {formula, task.gradient, in, cotangent, N(task.cotangent_scale), tile.first, {}};
#pragma unroll
    for (int k = 0; k < F::arity; ++k) work.sum[k] = N(0);
    sweep_tile(work, tile, group, packed);
    if (!summed) return;
    group_sum(work.sum, group);
    if (tile.lane != 0 || tile.size == 0) return;
#pragma unroll
    for (int k = 0; k < F::arity; ++k) {
      const N sum[1] = {work.sum[k]};
      if (task.gradient[k].data && task.gradient[k].per_block)
        write<typename Wide<T>::type>(task.gradient[k], tile.index, sum);
    }
  });
}

// ---- From the call to the kernel ----

// A problem in which nothing is summed and every operand is one run through memory is one row.
inline bool is_flat(const RowCall& call, int arity) {
  bool flat = is_one_run(call.cotangent) && !call.value.per_block;
  for (int k = 0; k < arity; ++k) flat = flat && is_one_run(call.in[k]) && !call.gradient[k].per_block;
  return flat;
}

template <class F, class T>
RowTask<typename Wide<T>::type> task_of(const RowCall& call) {
  bool summed = call.value.per_block;
  for (int k = 0; k < F::arity; ++k) summed = summed || call.gradient[k].per_block;
  const bool flat = is_flat(call, F::arity);
  RowTask<typename Wide<T>::type> task;
  task.tiling = tile(flat ? 1 : call.rows, flat ? call.rows * call.event : call.event, summed ? kBlock : kElementTile,
                     kPack<T>, kBlockUnits);
  task.x_scale = static_cast<typename Wide<T>::type>(call.params.x_scale);
  for (int k = 0; k < F::arity; ++k) task.in[k] = Operand(call.in[k], task.tiling.event);
  return task;
}

struct Forward {
  template <class F, Spread spread, class T, class X>
  static cudaError_t run(const RowCall& call, cudaStream_t stream) {
    const RowForward<typename Wide<T>::type> task = {task_of<F, T>(call), call.value};
    return launch(row_forward<F, spread, T, X>, task.tiling.grid(), task.tiling.threads(), stream, task);
  }
};

struct Backward {
  template <class F, Spread spread, class T, class X>
  static cudaError_t run(const RowCall& call, cudaStream_t stream) {
    using Factor = typename Wide<T>::type;
    RowBackward<Factor> task = {task_of<F, T>(call), {}, static_cast<Factor>(call.cotangent_scale), {}};
    task.cotangent = Operand(call.cotangent, task.tiling.event);
    for (int k = 0; k < F::arity; ++k) task.gradient[k] = call.gradient[k];
    return launch(row_backward<F, spread, T, X>, task.tiling.grid(), task.tiling.threads(), stream, task);
  }
};

template <class Direction, class F, class T, class X>
cudaError_t with_spread(const RowCall& call, cudaStream_t stream) {
  if constexpr (has_spread<F>) {
    switch (call.params.spread) {
      case Spread::log_std: return Direction::template run<F, Spread::log_std, T, X>(call, stream);
      case Spread::std: return Direction::template run<F, Spread::std, T, X>(call, stream);
      case Spread::var: return Direction::template run<F, Spread::var, T, X>(call, stream);
      default: break;
    }
  }
  return Direction::template run<F, Spread::logvar, T, X>(call, stream);
}

// Data has the dtype of the other operands, or is float or bytes; any other dtype takes a slower path, which looks the
// dtype up at every load.
template <class Direction, class F, class T>
cudaError_t with_data(const RowCall& call, cudaStream_t stream) {
  const Type x = call.in[0].type;
  if (x == kType<T>) return with_spread<Direction, F, T, T>(call, stream);
  if constexpr (has_x_scale<F>) {
    if constexpr (!std::is_same_v<T, double>) {
      if (x == Type::f32) return with_spread<Direction, F, T, float>(call, stream);
      if (x == Type::u8) return with_spread<Direction, F, T, uint8_t>(call, stream);
    }
    return with_spread<Direction, F, T, Any>(call, stream);
  }
  return cudaErrorInvalidValue;
}

template <class Direction, class F>
cudaError_t run(const RowCall& call, cudaStream_t stream) {
  switch (call.in[F::arity - 1].type) {
    case Type::f64: return with_data<Direction, F, double>(call, stream);
    case Type::f32: return with_data<Direction, F, float>(call, stream);
    case Type::bf16: return with_data<Direction, F, __nv_bfloat16>(call, stream);
    case Type::f16: return with_data<Direction, F, __half>(call, stream);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace aevb::device
