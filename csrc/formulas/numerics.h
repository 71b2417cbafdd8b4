// The number type N of every formula has + - * / and comparisons and, found by argument-dependent lookup or beside it,
// fma, select(mask, a, b), abs, exp, log, log1p and sqrt. N is a CPU vector (cpu/vec.h) or a CUDA scalar
// (cuda/scalar.h). AEVB_ISA is the namespace of an instruction set, so that code compiled for a wide one can never be
// linked into the path of a narrow one.
#pragma once

#ifdef __CUDACC__
#define AEVB_INLINE __host__ __device__ __forceinline__
#else
#define AEVB_INLINE inline __attribute__((always_inline))
#endif
// Placed after a lambda's parameters: a loop's body has to be inlined, or its constants are loaded in every iteration.
#define AEVB_INLINE_BODY __attribute__((always_inline))
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

// a * b, where 0 times infinity is 0 and a NaN stays one.
template <class N>
AEVB_INLINE N symmetric_product(N a, N b) {
  const N infinity(__builtin_inf());
  auto undefined = ((a == N(0)) & (abs(b) == infinity)) | ((b == N(0)) & (abs(a) == infinity));
  return select(undefined, N(0), a * b);
}

// e^(factor x)
template <class N>
AEVB_INLINE N exp_of(double factor, N x) {
  return exp(N(factor) * x);
}

// e^-(factor x), and never 0 where that is not: it may be a factor of infinity.
template <class N>
AEVB_INLINE N inverse_exp_of(double factor, N x) {
  return exp_of(-factor, x);
}

// e^-|x|
template <class N>
AEVB_INLINE N exp_of_minus_abs(N x) {
  return exp(-abs(x));
}

// a / b, where neither b nor 1 / b is beyond the normal numbers.
template <class N>
AEVB_INLINE N ratio(N a, N b) {
  return a / b;
}

// a * b, rounded before anything is added to it: nvcc fuses a product and a sum into one operation.
template <class N>
AEVB_INLINE N rounded_product(N a, N b) {
  return fma(a, b, N(0));
}

// A derivative times its cotangent. A zero cotangent gives a zero gradient even where the derivative has overflowed to
// infinity; a NaN on either side stays.
template <class N>
AEVB_INLINE N chain(N cotangent, N derivative) {
  N finite = select(abs(derivative) == N(__builtin_inf()), N(0), derivative);
  return cotangent * select(cotangent == N(0), finite, derivative);
}

// Whether N is the number of one thread of many. While one waits another computes, so that the fewest instructions win.
template <class N>
constexpr bool is_of_a_thread = requires { N::of_a_thread; };

// c[0] + c[1] x + c[2] x^2 + ... by Horner's scheme for a thread. In it each term waits for the one before, and a
// processor's window then holds too few elements to keep its units busy: for a vector it is Horner's scheme over pairs
// of terms, or of many terms over fours.
template <int size, class N>
AEVB_INLINE N polynomial(N x, const double (&c)[size]) {
  if constexpr (is_of_a_thread<N>) {
    N sum(c[size - 1]);
    AEVB_UNROLL
    for (int i = size - 2; i >= 0; --i) sum = fma(sum, x, N(c[i]));
    return sum;
  } else {
    N term[(size + 1) / 2];
    AEVB_UNROLL
    for (int i = 0; i < size / 2; ++i) term[i] = fma(N(c[2 * i + 1]), x, N(c[2 * i]));
    if (size % 2) term[size / 2] = N(c[size - 1]);
    int left = (size + 1) / 2;
    x = x * x;
    if (size > 6) {
      AEVB_UNROLL
      for (int i = 0; i < left / 2; ++i) term[i] = fma(term[2 * i + 1], x, term[2 * i]);
      if (left % 2) term[left / 2] = term[left - 1];
      left = (left + 1) / 2;
      x = x * x;
    }
    N sum = term[left - 1];
    AEVB_UNROLL
    for (int i = left - 2; i >= 0; --i) sum = fma(sum, x, term[i]);
    return sum;
  }
}

// 1/2!, 1/3!, ...
template <int count>
struct InverseFactorials {
  double from_2[count];

  constexpr InverseFactorials() : from_2() {
    double factorial = 1;
    for (int k = 0; k < count; ++k) from_2[k] = 1 / (factorial *= k + 2);
  }
};

// e^(factor x) and its square
template <class N>
AEVB_INLINE void exp_and_square(double factor, N x, N& e, N& square) {
  e = exp_of(factor, x);
  square = exp_of(2 * factor, x);
}

// e^w - 1 and e^w - 1 - w to full relative precision. The second is a parabola at 0, where every difference of e^w, 1
// and w cancels, so there it is summed as w^2 (1/2! + w/3! + w^2/4! + ...).
template <class N>
struct Exponential {
  N expm1, excess;

  AEVB_INLINE explicit Exponential(N w) : Exponential(w, exp(w)) {}

  AEVB_INLINE Exponential(N w, N e_w) {
    N near = w * w * series(w);
    // If e^w is infinite so is the excess; the cap avoids infinity - infinity for w = infinity.
    N far = e_w - N(1);
    N capped = select(w > N(1e4), N(1e4), w);
    auto small = abs(w) < N(N::digits < 24 ? 0.5 : 1);
    expm1 = select(small, near + w, far);
    excess = select(small, near, far - capped);
  }

 private:
  // 1/2! + w/3! + w^2/4! + ...
  static AEVB_INLINE N series(N w) {
    if constexpr (N::digits < 24) {  // |w| <= 1/2, minimax, with an error of 8e-7
      constexpr double c[] = {0.49999995974, 0.166662801124, 0.041667476802, 0.00839541116289, 0.00139146545108};
      return polynomial(w, c);
    } else if constexpr (N::digits > 24) {  // |w| <= 1: the first term left out is below an ulp
      constexpr InverseFactorials<18> c;
      return polynomial(w, c.from_2);
    } else {  // |w| <= 1, minimax, with an error of 0.04 ulp before rounding
      constexpr double c[] = {0.499999997927,   0.1666666701,      0.0416667345426,   0.00833331028061,
                              0.00138854519332, 0.000198440227946, 2.53548326396e-05, 2.77228736562e-06};
      return polynomial(w, c);
    }
  }
};

// e^x - 1 for x <= 0
template <class N>
AEVB_INLINE N expm1_of_negative(N x) {
  return Exponential<N>(x).expm1;
}

// a - log(1 + t) for 0 <= t <= 1, the range that a softplus needs: one polynomial, without the division and the cases
// of the general logarithm. It is the minimax polynomial (Remez), with an error of 0.08 ulp in float32 before rounding,
// and of 1.3e-6 in half precision.
template <class N>
AEVB_INLINE N minus_log1p(N a, N t) {
  if constexpr (N::digits > 24) {
    return a - log1p(t);
  } else if constexpr (N::digits < 24) {
    constexpr double c[] = {0.999998731585, -0.499869659186,  0.331094509684, -0.235038654798,
                            0.149223931494, -0.0664018244438, 0.0141410254226};
    return fma(-t, polynomial(t, c), a);
  } else {
    constexpr double c[] = {0.999999995287,  -0.499999024229, 0.333299624175,   -0.249541336585, 0.196759392565,
                            -0.153055925429, 0.106036548,     -0.0569595330967, 0.0198514615693, -0.00324402496383};
    return fma(-t, polynomial(t, c), a);
  }
}

// log s for s <= 1/2: no result is near 0.
template <class N>
AEVB_INLINE N log_of_smaller_part(N s) {
  return log(s);
}

// log(1 - s) for 0 <= s <= 1/2: one polynomial (minimax, Remez), with an error of 0.01 ulp in float32 before rounding,
// and of 1e-6 in half precision.
template <class N>
AEVB_INLINE N log_of_larger_part(N s) {
  if constexpr (N::digits > 24) {
    return log1p(-s);
  } else if constexpr (N::digits < 24) {
    constexpr double c[] = {-1.00000097064,  -0.499816745837, -0.338911011734, -0.187532352398,
                            -0.522745494301, 0.637922321512,  -0.990582664644};
    return s * polynomial(s, c);
  } else {
    constexpr double c[] = {-1.00000000056,  -0.499999737798,  -0.333353696919, -0.249386921253,
                            -0.209390468126, -0.0836767433739, -0.592906995484, 1.40467979707,
                            -3.31679971376,  3.75016285627,    -2.2108939039};
    return s * polynomial(s, c);
  }
}

// log(a / b) to full relative precision where a is near b.
template <class N>
AEVB_INLINE N log_ratio(N a, N b) {
  N t = (a - b) / b;
  return select(abs(t) < N(0.5), log1p(t), log(a) - log(b));
}

}  // namespace aevb::AEVB_ISA
