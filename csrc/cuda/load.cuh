// Loads operands from memory (any dtype, any strides) as the numbers of a formula, and stores results.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "cuda/scalar.h"
#include "cuda/tiling.h"

namespace aevb::device {

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
// The arithmetic on T: of half precision, quick.
template <class T>
using Number = Scalar<typename Wide<T>::type, std::is_same_v<T, __nv_bfloat16> || std::is_same_v<T, __half>>;

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

// The bits of a number narrower than a word, and the number of a word's lowest bits.
__device__ __forceinline__ unsigned bits_of(__nv_bfloat16 a) { return __bfloat16_as_ushort(a); }
__device__ __forceinline__ unsigned bits_of(__half a) { return __half_as_ushort(a); }
__device__ __forceinline__ unsigned bits_of(uint8_t a) { return a; }
template <class T>
__device__ __forceinline__ T of_bits(unsigned bits) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>)
    return __ushort_as_bfloat16(static_cast<unsigned short>(bits));
  else if constexpr (std::is_same_v<T, __half>)
    return __ushort_as_half(static_cast<unsigned short>(bits));
  else
    return static_cast<T>(bits);
}

template <class T, class N>
__device__ __forceinline__ T narrow(N a) {
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

// Keeps the compiler from computing both ways of a branch where one of them is rare.
__device__ __forceinline__ void rarely() {
#ifdef __CUDA_ARCH__
  asm volatile("");
#endif
}

// Gradients before they are narrowed: a finite one that overflows T becomes T's largest number, since infinity would
// become NaN as soon as it is multiplied by zero. A gradient that is infinite in the arithmetic itself stays infinite.
template <class T, int W, class N>
__device__ __forceinline__ void bound(const N (&a)[W], N (&held)[W]) {
#pragma unroll
  for (int j = 0; j < W; ++j) held[j] = a[j];
  if constexpr (kLargest<T> > 0) {
    const N most(kLargest<T>);
    N largest = abs(a[0]);
#pragma unroll
    for (int j = 1; j < W; ++j) largest = max(largest, abs(a[j]));
    if (!(largest > most)) return;  // as nearly always: one test for all of them
    rarely();
#pragma unroll
    for (int j = 0; j < W; ++j)
      if (!(abs(a[j]) == N(__builtin_inf()))) held[j] = select(a[j] > most, most, select(a[j] < -most, -most, a[j]));
  }
}

// The chain rule for W elements. Where no derivative is infinite, as nearly always, it is a product.
template <int W, class N>
__device__ __forceinline__ void chain(const N (&cotangent)[W], const N (&derivative)[W], N (&gradient)[W]) {
  N largest = abs(derivative[0]);
#pragma unroll
  for (int j = 1; j < W; ++j) largest = max(largest, abs(derivative[j]));
  if (largest == N(__builtin_inf())) {
    rarely();
#pragma unroll
    for (int j = 0; j < W; ++j) gradient[j] = chain(cotangent[j], derivative[j]);
  } else {
#pragma unroll
    for (int j = 0; j < W; ++j) gradient[j] = cotangent[j] * derivative[j];
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

// W adjacent elements as they were loaded. Narrow ones stay in words until they are used, since a register holds one of
// them as well as two.
template <class T, int W, bool in_words = sizeof(T) < 4 && sizeof(T) * W >= 4>
class Loaded {
 public:
  __device__ __forceinline__ void load(const T* p) { pack_ = device::load<W>(p); }
  __device__ __forceinline__ void fill(T same) {
#pragma unroll
    for (int j = 0; j < W; ++j) pack_.v[j] = same;
  }
  template <class N>
  __device__ __forceinline__ N number(int j) const {
    return widen<N>(pack_.v[j]);
  }

 private:
  Pack<T, W> pack_;
};
template <class T, int W>
class Loaded<T, W, true> {
 public:
  __device__ __forceinline__ void load(const T* p) {
    const auto words = device::load<kWords>(reinterpret_cast<const unsigned*>(p));
#pragma unroll
    for (int k = 0; k < kWords; ++k) word_[k] = words.v[k];
  }
  __device__ __forceinline__ void fill(T same) {
    unsigned word = 0;
#pragma unroll
    for (int k = 0; k < 4; k += sizeof(T)) word |= static_cast<unsigned>(bits_of(same)) << 8 * k;
#pragma unroll
    for (int k = 0; k < kWords; ++k) word_[k] = word;
  }
  template <class N>
  __device__ __forceinline__ N number(int j) const {
    const int at = j * sizeof(T);
    return widen<N>(of_bits<T>(word_[at / 4] >> 8 * (at % 4)));
  }

 private:
  static constexpr int kWords = sizeof(T) * W / 4;
  unsigned word_[kWords];
};

template <class T, int W>
__device__ __forceinline__ void store(T* p, const Pack<T, W>& pack) {
  using Word = typename Bits<alignof(Pack<T, W>)>::type;
#pragma unroll
  for (int k = 0; k < int(sizeof(pack) / sizeof(Word)); ++k)
    reinterpret_cast<Word*>(p)[k] = reinterpret_cast<const Word*>(&pack)[k];
}

template <class T, int W, class N>
__device__ __forceinline__ void store(void* data, int64_t at, const N (&value)[W]) {
  Pack<T, W> pack;
#pragma unroll
  for (int j = 0; j < W; ++j) pack.v[j] = narrow<T>(value[j]);
  store(static_cast<T*>(data) + at, pack);
}

// a b, of numbers that 32 bits hold: one instruction, where 64 bits take four.
__device__ __forceinline__ int64_t narrow_product(int64_t a, int64_t b) {
  return uint64_t(static_cast<uint32_t>(a)) * static_cast<uint32_t>(b);
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
//
// Index is int64_t, or uint32_t in an aligned call (Alignment in tiling.h): its tiles are whole rows, or of a single
// row.
template <class Index>
struct TileOf {
  Index index, row, start;
  int64_t first;  // the flat index of its element 0, which is element `start` of the row
  int size, lane;

  __device__ __forceinline__ TileOf(const Tiling& t, Index from) {
    index = from + (threadIdx.x >> t.group_log2);
    lane = threadIdx.x & (t.group - 1);
    row = start = first = size = 0;
    if (index >= static_cast<Index>(t.tiles)) return;
    if (std::is_same_v<Index, uint32_t>) {
      const bool one_row = t.rows == 1;
      row = one_row ? 0 : index;
      start = one_row ? index * static_cast<uint32_t>(t.block) : 0;
      first = start + narrow_product(row, t.event);
    } else {
      int64_t block = index;
      row = divide(block, t.blocks);
      start = block * t.block;
      first = row * t.event + start;
    }
    const Index left = static_cast<Index>(t.event) - start, most = t.block;
    size = static_cast<int>(left < most ? left : most);
  }
};
using Tile = TileOf<int64_t>;

// Calls body(tile) for every tile of this thread's group.
template <class Index = int64_t, class Body>
__device__ __forceinline__ void for_each_tile(const Tiling& t, Body body) {
  const unsigned groups = blockDim.x >> t.group_log2;
  for (Index first = Index(blockIdx.x) * groups; first < static_cast<Index>(t.tiles);
       first += Index(gridDim.x) * groups)
    body(TileOf<Index>(t, first));
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
    return static_cast<const char*>(p) + elements * size_of(type);
  }
  static __device__ __forceinline__ Raw get(Type type, const void* p, int64_t at) {
    switch (type) {
      case Type::f64: return as<double>(p, at);
      case Type::bf16: return as<__nv_bfloat16>(p, at);
      case Type::f16: return as<__half>(p, at);
      case Type::u8: return as<uint8_t>(p, at);
      case Type::i16: return as<int16_t>(p, at);
      case Type::i32: return as<int32_t>(p, at);
      case Type::i64: return as<int64_t>(p, at);
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
  // Of an aligned operand: a run, or a single number.
  __device__ __forceinline__ View(const Operand& in, uint32_t row, uint32_t start) : in_(&in), start_(start) {
    const int64_t from = narrow_product(row, in.row.stride[0]) + (uniform() ? 0 : start);
    data_ = Element<T, N>::advance(in.type, in.data, from);
    if (uniform()) same_ = Element<T, N>::get(in.type, data_, 0);
  }
  __device__ __forceinline__ View(const Operand& in, int64_t row, int64_t start) : in_(&in), start_(start) {
    int64_t from = offset(in.row, row);
    if (in.along == Along::run) from += start;
    if (in.along == Along::steps) from += start * stride();
    data_ = Element<T, N>::advance(in.type, in.data, from);
    if (uniform()) same_ = Element<T, N>::get(in.type, data_, 0);
  }
  // One without data, which is this number everywhere.
  __device__ __forceinline__ View(const Operand& in, Raw same) : in_(&in), data_(nullptr), start_(0), same_(same) {}

  // A single number for the whole tile, loaded once.
  __device__ __forceinline__ bool uniform() const { return in_->along == Along::one; }
  __device__ __forceinline__ N same() const { return widen<N>(same_); }
  // Contiguous in memory: W elements can be loaded as one Pack.
  __device__ __forceinline__ bool adjacent() const { return in_->along == Along::run && !std::is_same_v<T, Any>; }
  __device__ __forceinline__ const T* data() const { return static_cast<const T*>(data_); }

  // Whether finding an element takes divisions.
  __device__ __forceinline__ bool scattered() const { return in_->along == Along::several; }

  // Fills what is loaded again and again: `load` leaves a uniform operand's as it is, so that nothing has to be done
  // for it at any element.
  template <int W>
  __device__ __forceinline__ void fill(Loaded<Raw, W>& loaded) const {
    if (uniform()) loaded.fill(same_);
  }
  // Loads W adjacent elements, from element i of the tile on, in one of three ways: `Packs`, if the operand is
  // contiguous there and aligned, or uniform; `Singles`, if it is not scattered; `Scattered`.
  template <class Way, int W = Way::width>
  __device__ __forceinline__ void load(Way, int i, Loaded<Raw, W>& loaded) const {
    if (uniform()) return;
    if constexpr (std::is_same_v<Way, Scattered>)
      loaded.fill(at(scattered() ? offset(in_->event, start_ + i) : i * stride()));
    else if constexpr (std::is_same_v<Way, Singles>)
      loaded.fill(at(i * stride()));
    else if constexpr (!std::is_same_v<T, Any>)
      loaded.load(data() + i);
  }

 private:
  __device__ __forceinline__ int64_t stride() const { return in_->event.stride[0]; }
  __device__ __forceinline__ Raw at(int64_t i) const { return Element<T, N>::get(in_->type, data_, i); }

  const Operand* in_;
  const void* data_;  // element 0 of the tile, or of the row if the operand is scattered
  int64_t start_;
  Raw same_ = {};
};

// That of an operand which may be absent; it is `otherwise` then.
template <class T, class N, class Index>
__device__ __forceinline__ View<T, N> view_if(bool there, const Operand& in, Index row, Index start,
                                              N otherwise = N(1)) {
  return there ? View<T, N>(in, row, start) : View<T, N>(in, narrow<T>(otherwise));
}

// Where a tile's results go, one for each element: of type T, or of the arithmetic's type.
template <class T>
struct Result {
  void* data;  // of the tile's element 0
  Type type;

  Result() = default;
  template <class Index>
  __device__ __forceinline__ Result(const Target& out, const TileOf<Index>& tile) : type(out.type) {
    const int64_t gaps =
        std::is_same_v<Index, uint32_t> ? narrow_product(tile.row, out.row_gap) : tile.row * out.row_gap;
    data = static_cast<char*>(out.data) + (tile.first + gaps) * element();
  }

  // Of the arithmetic's type, which is another one than T.
  __device__ __forceinline__ bool is_wide() const {
    return !std::is_same_v<T, typename Wide<T>::type> && type != kType<T>;
  }
  __device__ __forceinline__ int element() const { return is_wide() ? sizeof(Number<T>) : sizeof(T); }

  // Whether W of them may be written at once, from element i of the tile on.
  template <int W>
  __device__ __forceinline__ bool takes(int i) const {
    return is_wide() ? aligned<W>(static_cast<const typename Wide<T>::type*>(data) + i)
                     : aligned<W>(static_cast<const T*>(data) + i);
  }
  // Of a type that is narrower than the arithmetic, `value` is a gradient.
  template <int W>
  __device__ __forceinline__ void write(int i, const Number<T> (&value)[W]) const {
    if (is_wide()) return store<typename Wide<T>::type>(data, i, value);
    Number<T> held[W];
    bound<T>(value, held);
    store<T>(data, i, held);
  }
};

}  // namespace aevb::device
