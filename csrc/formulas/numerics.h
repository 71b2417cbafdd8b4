// What every formula is written in: a number type N that has + - * / and comparisons, and, found by argument-dependent
// lookup or beside it, select(mask, a, b), abs, exp, log, log1p and sqrt. N is a CPU vector (cpu/vec.h) or a CUDA
// scalar (cuda/scalar.h). AEVB_ISA names the namespace of one instruction set, so that code compiled for a wide one can
// never be linked into the path of a narrow one.
#pragma once

#ifdef __CUDACC__
#define AEVB_INLINE __host__ __device__ __forceinline__
#else
#define AEVB_INLINE inline __attribute__((always_inline))
#endif
#define AEVB_INLINE_LAMBDA __attribute__((always_inline))
#if defined(__CUDA_ARCH__)
#define AEVB_UNROLL _Pragma("unroll")
#elif defined(__CUDACC__)
#define AEVB_UNROLL  // nvcc's pass for the host knows neither pragma
#else
#define AEVB_UNROLL _Pragma("GCC unroll 32")
#endif

namespace aevb::AEVB_ISA {

// a * b, where a == 0 means "this term is absent": no NaN from 0 * infinity.
template <class N>
AEVB_INLINE N product(N a, N b) {
  return select(a == N(0), N(0), a * b);
}

// A derivative times its cotangent. A zero cotangent gives a zero gradient even where the derivative has overflowed to
// infinity; a NaN on either side stays.
template <class N>
AEVB_INLINE N chain(N cotangent, N derivative) {
  N finite = select(abs(derivative) == N(__builtin_inf()), N(0), derivative);
  return cotangent * select(cotangent == N(0), finite, derivative);
}

template <class N>
AEVB_INLINE void exp_and_square(N x, N& e, N& square) {
  e = exp(x);
  square = exp(x + x);
}

// e^w - 1 and e^w - 1 - w to full relative precision. The second is a parabola at 0, where every difference of e^w, 1
// and w cancels, so there it is summed as w^2 (1/2! + w/3! + w^2/4! + ...).
template <class N>
struct Exponential {
  N expm1, excess;

  AEVB_INLINE explicit Exponential(N w) : Exponential(w, exp(w)) {}

  AEVB_INLINE Exponential(N w, N e_w) {
    constexpr int terms = N::digits > 24 ? 19 : 11;  // |w| <= 1: the first term left out is below an ulp
    double coefficient = 1;
    AEVB_UNROLL
    for (int k = 2; k <= terms; ++k) coefficient /= k;
    N series = N(coefficient);
    AEVB_UNROLL
    for (int k = terms; k >= 3; --k) {
      coefficient *= k;
      series = series * w + N(coefficient);
    }
    N near = w * w * series;
    // Where e^w is infinite so is the excess; the cap keeps w = infinity from making infinity - infinity.
    N far = e_w - N(1);
    N capped = select(w > N(1e4), N(1e4), w);
    auto small = abs(w) < N(1);
    expm1 = select(small, near + w, far);
    excess = select(small, near, far - capped);
  }
};

// log(a / b) to full relative precision where a is near b.
template <class N>
AEVB_INLINE N log_ratio(N a, N b) {
  N t = (a - b) / b;
  return select(abs(t) < N(0.5), log1p(t), log(a) - log(b));
}

}  // namespace aevb::AEVB_ISA
