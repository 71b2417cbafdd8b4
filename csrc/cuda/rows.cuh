// A formula over rows: its values and their sums, or the gradients of its operands.
//
// Every operand is read once and every result written once, which is also the fewest bytes to move:
//   forward   the operands, and one number per row (or per element, if nothing is summed)
//   backward  the operands, the cotangents (one per row, or per element), and the wanted gradients
//   both      the operands, the wanted gradients, and one number per row: for a guess of the cotangent (guess.cuh)
// A broadcast operand is read from the cache after the first time.
#pragma once
#include "cuda/guess.cuh"
#include "cuda/launch.cuh"
#include "cuda/load.cuh"
#include "cuda/reduce.cuh"
#include "cuda/rows.h"
#include "formulas/spread.h"

namespace aevb::device {

// If nothing is summed, a tile is the work of a warp in several rounds.
constexpr int kElementTile = 1024;
// Rows of more than this many packs are summed by a thread block.
constexpr int kBlockUnits = 256;

// A backward that mostly finds its guesses right has no more blocks: to start one takes longer than to see that.
constexpr int64_t kMaxGridOfGuesses = 2048;

// Elements of a pack, the unit of work in aligned memory. For double one is enough, since its code is long.
template <class T>
constexpr int kPack = sizeof(T) < 8 ? kWide / sizeof(T) : 1;
// Elements that a thread has in flight if memory is not aligned.
constexpr int kSinglesInFlight = 4;

// Whether a formula is compiled once for all spreads and data: one whose arithmetic outweighs what a spread that the
// compiler knows, or a load of the data's own type, would save.
template <class F>
constexpr bool is_compact = false;

// The same formulas with the spread known to the compiler.
template <class F, Spread spread>
AEVB_INLINE F formula(double x_scale, Spread given) {
  if constexpr (!has_spread<F>)
    return {x_scale};
  else if constexpr (is_compact<F>)
    return {x_scale, {given}};
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
// Some formulas compute both at once, and the first operand's derivative apart: `of_first` says whether it is wanted.
template <class F, class N>
concept has_both = requires(const F f, N n) { f.value_and_gradient(true, n, n, n, n, n, n, n); } ||
                   requires(const F f, N n) { f.value_and_gradient(true, n, n, n, n, n, n, n, n, n); };
template <class F, class N>
__device__ __forceinline__ void both_of(const F& f, const N (&in)[F::arity], bool of_first, N& value,
                                        N (&d)[F::arity]) {
  if constexpr (F::arity == 3) f.value_and_gradient(of_first, value, in[0], in[1], in[2], d[0], d[1], d[2]);
  if constexpr (F::arity == 4)
    f.value_and_gradient(of_first, value, in[0], in[1], in[2], in[3], d[0], d[1], d[2], d[3]);
}

// Factors have the type of the arithmetic, so that no thread has to convert them.
template <class Factor>
struct RowTask {
  Tiling tiling;
  Factor x_scale;
  Spread spread;
  bool summed;  // whether there are sums over the elements of a tile
  Operand in[4];
};
template <class Factor>
struct RowForward : RowTask<Factor> {
  Target value;
};
template <class Factor>
struct RowBackward : RowTask<Factor> {
  Factor cotangent_scale;
  bool of_value;            // whether there is a cotangent; else it is one
  bool wanted[4], sums[4];  // which gradients, and of them those that are summed
  Operand cotangent;
  Target gradient[4];
  void* value;  // of a forward for a guess: the sums of its values, else null
  Guesses guesses;
};

// The part of a tile where packs of V elements are aligned for every operand and result alike.
template <int V>
class Packed {
 public:
  // Where the first aligned pack of `element`-sized numbers begins, if `data` is element 0 of the tile.
  __device__ __forceinline__ void include(const void* data, int element) {
    const int period = aligned_every(V, element);
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
  __device__ __forceinline__ void include(const Result<T>& result) {
    include(result.data, result.element());
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
  typename Work::template Loaded<Way::width> loaded[in_flight];
#pragma unroll
  for (int u = 0; u < in_flight; ++u) work.fill(loaded[u]);
  for (int k = lane; k < count; k += in_flight * group) {
#pragma unroll
    for (int u = 0; u < in_flight; ++u)
      if (u == 0 || k + u * group < count) work.load(way, place(k + u * group), loaded[u]);
#pragma unroll
    for (int u = 0; u < in_flight; ++u)
      if (u == 0 || k + u * group < count) work.use(place(k + u * group), loaded[u]);
  }
}

// Processes the elements of a tile. Index is uint32_t where all of it is packs: then that of an aligned call.
template <int V, class Index, class Work>
__device__ __forceinline__ void sweep_tile(Work& work, const TileOf<Index>& tile, int group) {
  if constexpr (std::is_same_v<Index, uint32_t>) {
    sweep<1>(Packs<V>(), work, tile.size / V, tile.lane, group, [](int k) { return k * V; });
  } else {
    Packed<V> packed;
    work.limit(packed);
    if (packed.scattered()) return sweep<1>(Scattered(), work, tile.size, tile.lane, group, [](int k) { return k; });
    int begin = 0, packs = 0;
    if constexpr (V > 1) {
      begin = packed.begin(), packs = packed.packs(tile.size);
      sweep<1>(Packs<V>(), work, packs, tile.lane, group, [=](int k) { return begin + k * V; });
    }
    sweep<kSinglesInFlight>(Singles(), work, tile.size - packs * V, tile.lane, group,
                            [=](int k) { return packs == 0 || k < begin ? k : k + packs * V; });
  }
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
    device::Loaded<typename View<X, N>::Raw, W> first;
    device::Loaded<T, W> rest[arity - 1];
  };

  template <class Index>
  __device__ __forceinline__ Operands(const Operand* in, const TileOf<Index>& tile)
      : first(in[0], tile.row, tile.start) {
#pragma unroll
    for (int k = 0; k < arity - 1; ++k) rest[k] = View<T, N>(in[k + 1], tile.row, tile.start);
  }
  template <int V>
  __device__ __forceinline__ void limit(Packed<V>& packed) const {
    packed.include(first);
#pragma unroll
    for (int k = 0; k < arity - 1; ++k) packed.include(rest[k]);
  }
  template <int W>
  __device__ __forceinline__ void fill(Loaded<W>& loaded) const {
    first.fill(loaded.first);
#pragma unroll
    for (int k = 0; k < arity - 1; ++k) rest[k].fill(loaded.rest[k]);
  }
  template <class Way>
  __device__ __forceinline__ void load(Way way, int i, Loaded<Way::width>& loaded) const {
    first.load(way, i, loaded.first);
#pragma unroll
    for (int k = 0; k < arity - 1; ++k) rest[k].load(way, i, loaded.rest[k]);
  }
};

template <class N, int W, class In>
__device__ __forceinline__ void numbers(const typename In::template Loaded<W>& loaded, int j, N (&out)[In::arity]) {
  out[0] = loaded.first.template number<N>(j);
#pragma unroll
  for (int k = 0; k < In::arity - 1; ++k) out[k + 1] = loaded.rest[k].template number<N>(j);
}

template <class F, class T, class X>
struct ForwardWork {
  using N = Number<T>;
  using In = Operands<F::arity, T, X>;
  template <int W>
  using Loaded = typename In::template Loaded<W>;
  const F& formula;
  const In& in;
  bool wanted;  // the value of each element, not their sum
  Result<T> value;
  N sum[1];

  template <int V>
  __device__ __forceinline__ void limit(Packed<V>& packed) const {
    in.limit(packed);
    if (wanted) packed.include(value);
  }
  template <int W>
  __device__ __forceinline__ void fill(Loaded<W>& loaded) const {
    in.fill(loaded);
  }
  template <class Way>
  __device__ __forceinline__ void load(Way way, int i, Loaded<Way::width>& loaded) const {
    in.load(way, i, loaded);
  }
  template <int W>
  __device__ __forceinline__ void use(int i, const Loaded<W>& loaded) {
    N values[W];
#pragma unroll
    for (int j = 0; j < W; ++j) {
      N operands[F::arity];
      numbers<N, W, In>(loaded, j, operands);
      values[j] = value_of(formula, operands);
      sum[0] = sum[0] + values[j];
    }
    if (wanted) value.write(i, values);
  }
};

// Index: see sweep_tile.
template <class F, Spread spread, class T, class X, class Index>
__global__ void __launch_bounds__(kBlockThreads, std::is_same_v<T, double> ? 1
                                                 : F::arity == 4           ? 2
                                                                           : 4)
    row_forward(const __grid_constant__ RowForward<typename Wide<T>::type> task) {
  using N = Number<T>;
  const F formula = device::formula<F, spread>(task.x_scale, task.spread);
  const int group = task.tiling.group;
  for_each_tile<Index>(task.tiling, [&](const TileOf<Index>& tile) {
    const Operands<F::arity, T, X> in(task.in, tile);
    ForwardWork<F, T, X> work = {formula, in, !task.summed, {task.value, tile}, {N(0)}};
    sweep_tile<kPack<T>, Index>(work, tile, group);
    if (!task.summed) return;
    group_sum(work.sum, group);
    if (tile.lane == 0 && tile.size > 0) store<typename Wide<T>::type>(task.value.data, tile.index, work.sum);
  });
}

// Results within a tile whose alignment is not known to be that of the operands.
template <bool aligned, class T, int W>
__device__ __forceinline__ void write(const Result<T>& result, int i, const Number<T> (&value)[W]) {
  if constexpr (!aligned && W > 1)
    if (!result.template takes<W>(i)) {
#pragma unroll
      for (int j = 0; j < W; ++j) {
        const Number<T> one[1] = {value[j]};
        result.write(i + j, one);
      }
      return;
    }
  result.write(i, value);
}

// Index: see sweep_tile.
template <class F, class T, class X, class Index>
struct BackwardWork {
  using N = Number<T>;
  using Factor = typename Wide<T>::type;
  using In = Operands<F::arity, T, X>;
  const F& formula;
  const In& in;
  const View<Factor, N>& cotangent;
  N scale;
  // One cotangent for the tile that is not zero: the chain rule is then a product.
  bool plain;
  N same;
  const bool (&wanted)[4], (&sums)[4];  // which gradients, and of them those that are summed
  Result<T> gradient[F::arity];         // of each element
  N sum[F::arity];
  bool valued, graded;  // whether values are summed, and gradients are written
  N value;

  template <int W>
  struct Loaded {
    typename In::template Loaded<W> in;
    device::Loaded<Factor, W> cotangent;
  };

  template <int V>
  __device__ __forceinline__ void limit(Packed<V>& packed) const {
    in.limit(packed);
    packed.include(cotangent);
    if (valued) return;  // which are summed as a forward does that has no gradients
#pragma unroll
    for (int k = 0; k < F::arity; ++k)
      if (wanted[k] && !sums[k]) packed.include(gradient[k]);
  }
  template <int W>
  __device__ __forceinline__ void fill(Loaded<W>& loaded) const {
    in.fill(loaded.in);
    cotangent.fill(loaded.cotangent);
  }
  template <class Way>
  __device__ __forceinline__ void load(Way way, int i, Loaded<Way::width>& loaded) const {
    in.load(way, i, loaded.in);
    cotangent.load(way, i, loaded.cotangent);
  }
  template <int W>
  __device__ __forceinline__ void use(int i, const Loaded<W>& loaded) {
    N operands[W][F::arity], derivative[W][F::arity], values[W];
#pragma unroll
    for (int j = 0; j < W; ++j) {
      numbers<N, W, In>(loaded.in, j, operands[j]);
      if constexpr (has_both<F, N>)
        both_of(formula, operands[j], wanted[0], values[j], derivative[j]);
      else
        gradient_of(formula, operands[j], derivative[j]);
    }
    if (valued) {
#pragma unroll
      for (int j = 0; j < W; ++j) value = value + (has_both<F, N> ? values[j] : value_of(formula, operands[j]));
      if (!graded) return;
    }
#pragma unroll
    for (int k = 0; k < F::arity; ++k) {
      if (!wanted[k]) continue;
      N d[W];
      if (plain) {
#pragma unroll
        for (int j = 0; j < W; ++j) d[j] = same * derivative[j][k];
      } else {
#pragma unroll
        for (int j = 0; j < W; ++j) d[j] = chain(loaded.cotangent.template number<N>(j) * scale, derivative[j][k]);
      }
      if (sums[k]) {
#pragma unroll
        for (int j = 0; j < W; ++j) sum[k] = sum[k] + d[j];
      } else {
        write<std::is_same_v<Index, uint32_t>>(gradient[k], i, d);
      }
    }
  }
};

template <class F, Spread spread, class T, class X, class Index>
__global__ void __launch_bounds__(kBlockThreads, std::is_same_v<T, double> || is_compact<F> ? 1
                                                 : F::arity == 4 || sizeof(T) < 4           ? 2
                                                                                            : 3)
    row_backward(const __grid_constant__ RowBackward<typename Wide<T>::type> task) {
  using N = Number<T>;
  using Factor = typename Wide<T>::type;
  const F formula = device::formula<F, spread>(task.x_scale, task.spread);
  const int group = task.tiling.group;
  const bool guesses = task.guesses.used, valued = task.value;
  auto* const used = static_cast<Factor*>(task.guesses.used);
  const N otherwise(valued ? guess_of<Factor>(task.guesses.history) : Factor(1));
  const auto cotangent_at = [&](Index row, Index start) {
    return view_if<Factor, N>(task.of_value, task.cotangent, row, start, otherwise);
  };
  if (guesses && !valued && blockIdx.x == 0 && threadIdx.x == 0)
    remember(task.guesses.history, cotangent_at(0, 0).same().v,
             cotangent_at(static_cast<Index>(task.tiling.rows - 1), 0).same().v);

  for_each_tile<Index>(task.tiling, [&](const TileOf<Index>& tile) {
    const auto cotangent = cotangent_at(tile.row, tile.start);
    if (guesses && !valued && tile.size > 0 && was_right(used[tile.index], cotangent.same().v)) return;
    const Operands<F::arity, T, X> in(task.in, tile);
    const N scale(task.cotangent_scale), same = cotangent.same() * scale;
    const bool plain = cotangent.uniform() && !(same == N(0)), graded = !valued || otherwise == otherwise;
    BackwardWork<F, T, X, Index> work = {formula,   in, cotangent, scale,  plain,  same, task.wanted,
                                         task.sums, {}, {},        valued, graded, N(0)};
#pragma unroll
    for (int k = 0; k < F::arity; ++k) {
      work.gradient[k] = Result<T>(task.gradient[k], tile);
      work.sum[k] = N(0);
    }
    sweep_tile<kPack<T>, Index>(work, tile, group);
    if (!task.summed) return;
    if (valued) {
      N sum[1] = {work.value};
      group_sum(sum, group);
      if (tile.lane != 0 || tile.size == 0) return;
      store<Factor>(task.value, tile.index, sum);
      used[tile.index] = otherwise.v;
      return;
    }
    group_sum(work.sum, group);
    if (tile.lane != 0 || tile.size == 0) return;
#pragma unroll
    for (int k = 0; k < F::arity; ++k) {
      const N sum[1] = {work.sum[k]};
      if (task.sums[k]) store<Factor>(task.gradient[k].data, tile.index, sum);
    }
  });
}

// ---- From the call to the kernel ----

// A problem in which nothing is summed and every operand is one run through memory is one row.
inline bool is_flat(const RowCall& call, int arity) {
  bool flat = is_one_run(call.cotangent) && !call.value.per_block && !call.value.layout;
  for (int k = 0; k < arity; ++k)
    flat = flat && is_one_run(call.in[k]) && !call.gradient[k].per_block && !call.gradient[k].layout;
  return flat;
}

// Sets what both directions have. Returns whether the call is aligned: every tile is packs alone, all of them aligned.
template <class F, class T>
bool set_rows(RowTask<typename Wide<T>::type>& task, const RowCall& call) {
  task.summed = call.value.per_block;
  bool stores = call.value.data && !call.value.per_block;
  for (int k = 0; k < F::arity; ++k) {
    task.summed = task.summed || call.gradient[k].per_block;
    // Values are summed alike with gradients and without.
    stores = stores || (!call.value.data && call.gradient[k].data && !call.gradient[k].per_block);
  }
  const bool guesses = call.guesses.used, flat = !guesses && is_flat(call, F::arity);
  task.tiling = tile(flat ? 1 : call.rows, flat ? call.rows * call.event : call.event,
                     task.summed || guesses ? kBlock : kElementTile, kPack<T>, kBlockUnits, stores);
  task.x_scale = static_cast<typename Wide<T>::type>(call.params.x_scale);
  task.spread = call.params.spread;
  Alignment alignment(task.tiling, kPack<T>);
  for (int k = 0; k < F::arity; ++k) {
    task.in[k] = Operand(call.in[k], task.tiling.event);
    alignment.include(task.in[k]);
    alignment.include(Target(call.gradient[k], call.event));
  }
  alignment.include(Target(call.value, call.event));
  alignment.include(Operand(call.cotangent, task.tiling.event));
  return alignment.holds();
}

// What is moved number by number gains nothing from aligned packs: double, and a type known only at run time.
template <class T, class X>
constexpr bool kMovesPacks = kPack<T> > 1 && !std::is_same_v<X, Any>;

// The data's type where a call is not aligned. A compact formula has one kernel for all of them.
template <class F, class X>
using Unaligned = std::conditional_t<is_compact<F>, Any, X>;

struct Forward {
  template <class F, Spread spread, class T, class X>
  static cudaError_t run(const RowCall& call, cudaStream_t stream) {
    RowForward<typename Wide<T>::type> task;
    const bool aligned = set_rows<F, T>(task, call);
    task.value = Target(call.value, call.event);
    auto* kernel = row_forward<F, spread, T, Unaligned<F, X>, int64_t>;
    if constexpr (kMovesPacks<T, X>)
      if (aligned) kernel = row_forward<F, spread, T, X, uint32_t>;
    return launch(kernel, task.tiling.grid(), task.tiling.threads(), stream, task);
  }
};

struct Backward {
  template <class F, Spread spread, class T, class X>
  static cudaError_t run(const RowCall& call, cudaStream_t stream) {
    using Factor = typename Wide<T>::type;
    RowBackward<Factor> task;
    const bool aligned = set_rows<F, T>(task, call);
    task.cotangent_scale = static_cast<Factor>(call.cotangent_scale);
    task.of_value = call.cotangent.data;
    task.cotangent = Operand(call.cotangent, task.tiling.event);
    for (int k = 0; k < 4; ++k) {
      task.gradient[k] = Target(call.gradient[k], call.event);
      task.wanted[k] = call.gradient[k].data;
      task.sums[k] = task.wanted[k] && call.gradient[k].per_block;
    }
    task.value = call.value.data;
    task.guesses = call.guesses;
    auto* kernel = row_backward<F, spread, T, Unaligned<F, X>, int64_t>;
    if constexpr (kMovesPacks<T, X>)
      if (aligned) kernel = row_backward<F, spread, T, X, uint32_t>;
    const auto most = task.guesses.used && !task.value ? kMaxGridOfGuesses : kMaxGrid;
    const auto grid = static_cast<unsigned>(std::min<int64_t>(task.tiling.grid(), most));
    return launch(kernel, grid, task.tiling.threads(), stream, task);
  }
};

template <class Direction, class F, class T, class X>
cudaError_t with_spread(const RowCall& call, cudaStream_t stream) {
  if constexpr (has_spread<F> && !is_compact<F>) {
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
    if constexpr (!std::is_same_v<T, double> && !is_compact<F>) {
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
