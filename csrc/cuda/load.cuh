// Loads operands from memory (any dtype, any strides) as the numbers of a formula, and stores results.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "cuda/scalar.h"
#include "cuda/tiling.h"

namespace aevb::device {

constexpr int kWide = 16;  // bytes that one thread loads or stores at a time, at most

// A dtype that is known only at run time.
struct Any {};

template <class T>
struct Wide {
  using type = float;
};
template <>
struct Wide<double> {
  using type = double;
};
// The type of arithmetic on T.
template <class T>
using Number = Scalar<typename Wide<T>::type>;

template <class T>
constexpr Type kType = Type::f32;
template <>
constexpr Type kType<double> = Type::f64;
template <>
constexpr Type kType<__nv_bfloat16> = Type::bf16;
template <>
constexpr Type kType<__half> = Type::f16;
template <>
constexpr Type kType<uint8_t> = Type::u8;

template <class N, class T>
__device__ __forceinline__ N widen(T a) {
  if constexpr (std::is_same_v<T, N>)
    return a;
  else if constexpr (std::is_same_v<T, __nv_bfloat16>)
    return N(__bfloat162float(a));
  else if constexpr (std::is_same_v<T, __half>)
    return N(__half2float(a));
  else
    return N(a);
}

template <class T>
__device__ __forceinline__ T narrow(Number<T> a) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>)
    return __float2bfloat16_rn(a.v);
  else if constexpr (std::is_same_v<T, __half>)
    return __float2half_rn(a.v);
  else
    return a.v;
}

template <class T>
constexpr double kLargest = 0;  // no narrower than the arithmetic
template <>
constexpr double kLargest<__nv_bfloat16> = 0x1.fep127;
template <>
constexpr double kLargest<__half> = 65504;

// A gradient before it is narrowed: a finite one that overflows T becomes T's largest number, since infinity would
// become NaN as soon as it is multiplied by zero. A gradient that is infinite in the arithmetic itself stays infinite.
template <class T>
__device__ __forceinline__ Number<T> bounded(Number<T> a) {
  if constexpr (kLargest<T> > 0) {
    using N = Number<T>;
    const N most(kLargest<T>), held = select(a > most, most, select(a < -most, -most, a));
    return select(abs(a) == N(__builtin_inf()), a, held);
  } else {
    return a;
  }
}

// W adjacent elements, moved in as few instructions as their size allows.
template <class T, int W>
struct alignas(sizeof(T) * W < kWide ? sizeof(T) * W : kWide) Pack {
  T v[W];
};

template <int bytes>
struct Bits;
template <>
struct Bits<1> {
  using type = unsigned char;
};
template <>
struct Bits<2> {
  using type = unsigned short;
};
template <>
struct Bits<4> {
  using type = unsigned;
};
template <>
struct Bits<8> {
  using type = uint2;
};
template <>
struct Bits<16> {
  using type = uint4;
};

// Whether W elements may be moved as a Pack from or to `p`.
template <int W, class T>
__device__ __forceinline__ bool aligned(const T* p) {
  return reinterpret_cast<uintptr_t>(p) % alignof(Pack<T, W>) == 0;
}

// Loads through the read-only path: no kernel writes what it reads.
template <int W, class T>
__device__ __forceinline__ Pack<T, W> load(const T* p) {
  using Word = typename Bits<alignof(Pack<T, W>)>::type;
  Pack<T, W> pack;
#pragma unroll
  for (int k = 0; k < int(sizeof(pack) / sizeof(Word)); ++k)
    reinterpret_cast<Word*>(&pack)[k] = __ldg(reinterpret_cast<const Word*>(p) + k);
  return pack;
}

template <class T, int W>
__device__ __forceinline__ void store(T* p, const Pack<T, W>& pack) {
  using Word = typename Bits<alignof(Pack<T, W>)>::type;
#pragma unroll
  for (int k = 0; k < int(sizeof(pack) / sizeof(Word)); ++k)
    reinterpret_cast<Word*>(p)[k] = reinterpret_cast<const Word*>(&pack)[k];
}

template <class T, int W>
__device__ __forceinline__ void store(void* data, int64_t at, const Number<T> (&value)[W]) {
  Pack<T, W> pack;
#pragma unroll
  for (int j = 0; j < W; ++j) pack.v[j] = narrow<T>(value[j]);
  store(static_cast<T*>(data) + at, pack);
}

// Returns the quotient; `index` becomes the remainder.
__device__ __forceinline__ int64_t divide(int64_t& index, const Divisor& by) {
  uint64_t quotient = __umul64hi(index, by.reciprocal);
  index -= quotient * by.value;
  if (static_cast<uint64_t>(index) >= by.value) ++quotient, index -= by.value;
  return quotient;
}

// The offset of the element with this row-major index.
__device__ __forceinline__ int64_t offset(const Axes& axes, int64_t index) {
  int64_t sum = 0;
  int d = 0;
#pragma unroll 1
  for (; d + 1 < axes.dims; ++d) {
    const int64_t outer = divide(index, axes.size[d]);
    sum += index * axes.stride[d];
    index = outer;
  }
  return sum + index * axes.stride[d];
}

// A tile, as one thread of its group sees it. Groups that have run out of tiles get an empty one, so that the threads
// of a warp and of a block reach the same barriers.
struct Tile {
  int64_t index, row, start, first;  // `first` is the flat index of its element 0, which is element `start` of the row
  int size, lane;

  __device__ __forceinline__ Tile(const Tiling& t, int64_t from) {
    index = from + (threadIdx.x >> t.group_log2);
    lane = threadIdx.x & (t.group - 1);
    row = start = first = size = 0;
    if (index >= t.tiles) return;
    int64_t block = index;
    row = divide(block, t.blocks);
    start = block * t.block;
    first = row * t.event + start;
    size = static_cast<int>(t.event - start < t.block ? t.event - start : t.block);
  }
};

// Calls body(tile) for every tile of this thread's group.
template <class Body>
__device__ __forceinline__ void for_each_tile(const Tiling& t, Body body) {
  const int groups = blockDim.x >> t.group_log2;
  for (int64_t first = int64_t(blockIdx.x) * groups; first < t.tiles; first += int64_t(gridDim.x) * groups)
    body(Tile(t, first));
}

// The raw value loaded for an element of type T, before its conversion to a number N.
template <class T, class N>
struct Element {
  using Raw = T;
  static __device__ __forceinline__ const void* advance(Type, const void* p, int64_t elements) {
    return static_cast<const T*>(p) + elements;
  }
  static __device__ __forceinline__ Raw get(Type, const void* p, int64_t at) {
    return load<1>(static_cast<const T*>(p) + at).v[0];
  }
};

template <class N>
struct Element<Any, N> {
  using Raw = N;
  static __device__ __forceinline__ const void* advance(Type type, const void* p, int64_t elements) {
    const int size = type == Type::f64 ? 8 : type == Type::f32 ? 4 : type == Type::u8 ? 1 : 2;
    return static_cast<const char*>(p) + elements * size;
  }
  static __device__ __forceinline__ Raw get(Type type, const void* p, int64_t at) {
    switch (type) {
      case Type::f64: return as<double>(p, at);
      case Type::bf16: return as<__nv_bfloat16>(p, at);
      case Type::f16: return as<__half>(p, at);
      case Type::u8: return as<uint8_t>(p, at);
      default: return as<float>(p, at);
    }
  }

 private:
  template <class T>
  static __device__ __forceinline__ N as(const void* p, int64_t at) {
    return widen<N>(load<1>(static_cast<const T*>(p) + at).v[0]);
  }
};

// Ways to load: see View.
template <int W>
struct Packs {
  static constexpr int width = W;
};
struct Singles {
  static constexpr int width = 1;
};
struct Scattered {
  static constexpr int width = 1;
};

// An operand within one tile: elements of type T, used as numbers N.
template <class T, class N>
class View {
 public:
  using Raw = typename Element<T, N>::Raw;

  View() = default;
  __device__ __forceinline__ View(const Operand& in, int64_t row, int64_t start) : in_(&in), start_(start) {
    data_ = Element<T, N>::advance(in.type, in.data, offset(in.row, row) + (affine() ? start * stride() : 0));
    if (uniform()) same_ = widen<N>(Element<T, N>::get(in.type, data_, 0));
  }
  // One without data, which is this number everywhere.
  __device__ __forceinline__ View(const Operand& in, N same) : in_(&in), data_(nullptr), start_(0), same_(same) {}

  // A single number for the whole tile, loaded once.
  __device__ __forceinline__ bool uniform() const { return affine() && stride() == 0; }
  // Contiguous in memory: W elements can be loaded as one Pack.
  __device__ __forceinline__ bool adjacent() const { return affine() && stride() == 1 && !std::is_same_v<T, Any>; }
  __device__ __forceinline__ const T* data() const { return static_cast<const T*>(data_); }

  // Whether finding an element takes divisions.
  __device__ __forceinline__ bool scattered() const { return !affine(); }

  // Loads W adjacent elements, from element i of the tile on, in one of three ways: `Packs`, if the operand is
  // contiguous there and aligned, or uniform; `Singles`, if it is not scattered; `Scattered`. For a uniform operand
  // nothing is loaded, and `number` ignores the argument.
  template <class Way, int W = Way::width>
  __device__ __forceinline__ Pack<Raw, W> get(Way, int i) const {
    if (!uniform()) {
      if constexpr (std::is_same_v<Way, Scattered>)
        return {{at(affine() ? i * stride() : offset(in_->event, start_ + i))}};
      else if constexpr (std::is_same_v<Way, Singles>)
        return {{at(i * stride())}};
      else if constexpr (!std::is_same_v<T, Any>)
        return load<W>(data() + i);
    }
    return {};
  }
  __device__ __forceinline__ N number(Raw raw) const { return uniform() ? same_ : widen<N>(raw); }

 private:
  __device__ __forceinline__ bool affine() const { return in_->event.dims == 1; }
  __device__ __forceinline__ int64_t stride() const { return in_->event.stride[0]; }
  __device__ __forceinline__ Raw at(int64_t i) const { return Element<T, N>::get(in_->type, data_, i); }

  const Operand* in_;
  const void* data_;  // element 0 of the tile where the operand is affine, else of the row
  int64_t start_;
  N same_ = N(0);
};

}  // namespace aevb::device
