// A mixture of discretised logistics over the three colours of a pixel (Salimans et al. 2017, PixelCNN++).
#pragma once
#include <cstdint>

#include "formulas/logistic_factors.h"

namespace aevb::AEVB_ISA {

// The parameters of a mixture of K components, as PixelCNN++ and VDVAE order them: K logits, and for each colour K
// means, K logarithms of scales and K coefficients.
struct MixtureLayout {
  int64_t components;
  AEVB_INLINE int64_t logit(int64_t k) const { return k; }
  AEVB_INLINE int64_t mean(int colour, int64_t k) const { return (1 + 3 * colour) * components + k; }
  AEVB_INLINE int64_t log_scale(int colour, int64_t k) const { return (2 + 3 * colour) * components + k; }
  AEVB_INLINE int64_t coefficient(int colour, int64_t k) const { return (3 + 3 * colour) * components + k; }
};

// A pixel: its colours in [-1, 1], in bins of 2/255 of which the first and the last are open.
template <class N>
struct Pixel {
  N colour[3];
  decltype(N(0) < N(0)) lowest[3], highest[3];

  AEVB_INLINE Pixel(N red, N green, N blue) : colour{red, green, blue} {
    for (int c = 0; c < 3; ++c) {
      lowest[c] = colour[c] < N(-0.999);
      highest[c] = colour[c] > N(0.999);
    }
  }
};

// tanh z and its derivative.
template <class N>
struct Coefficient {
  N value, slope;
};

// One component: the probability of a pixel is e^exponent * moderate. The means of green and blue depend on the colours
// before them, by coefficients tanh z.
template <class N>
struct LogisticComponent {
  N exponent, moderate;

  AEVB_INLINE LogisticComponent(const Pixel<N>& x, const N (&mean)[3], const N (&log_scale)[3], const N (&z)[3]) {
    coefficients(z);
    const N of_red = fma(tanh_[0].value, x.colour[0], mean[1]);
    const N of_two = fma(tanh_[2].value, x.colour[1], fma(tanh_[1].value, x.colour[0], mean[2]));
    const N centre[3] = {mean[0], of_red, of_two};
    for (int c = 0; c < 3; ++c) {
      at_limit_[c] = log_scale[c] < N(kLeastLogScale);
      const N s = select(at_limit_[c], N(kLeastLogScale), log_scale[c]);
      bin_[c] = LogisticFactors<N>(x.colour[c] - centre[c], s, exp_of(-1, s), N(1.0 / 255), x.lowest[c], x.highest[c]);
    }
    // One division serves all bins, and their gradients.
    for (int c = 0; c < 3; ++c) both_[c] = bin_[c].numerator * bin_[c].denominator;
    inverse_ = N(1) / (both_[0] * both_[1] * both_[2]);
    exponent = bin_[0].exponent + bin_[1].exponent + bin_[2].exponent;
    const N numerator = bin_[0].numerator * bin_[1].numerator * bin_[2].numerator;
    moderate = numerator * (inverse_ * numerator);
  }

  // The derivatives of the logarithm of the probability by the parameters.
  AEVB_INLINE void gradient(const Pixel<N>& x, N (&mean)[3], N (&log_scale)[3], N (&z)[3]) const {
    for (int c = 0; c < 3; ++c) {
      bin_[c].gradient(inverse_ * (both_[(c + 1) % 3] * both_[(c + 2) % 3]), mean[c], log_scale[c]);
      log_scale[c] = select(at_limit_[c], N(0), log_scale[c]);
    }
    z[0] = mean[1] * x.colour[0] * tanh_[0].slope;
    z[1] = mean[2] * x.colour[0] * tanh_[1].slope;
    z[2] = mean[2] * x.colour[1] * tanh_[2].slope;
  }

 private:
  static constexpr double kLeastLogScale = -7;

  // tanh z = (1 - e) / (1 + e) with e = e^-2|z|, and its derivative 4 e / (1 + e)^2; one division for three of them.
  AEVB_INLINE void coefficients(const N (&z)[3]) {
    N e[3], rest[3], sum[3];
    for (int c = 0; c < 3; ++c) {
      exp_of_minus(abs(z[c]) + abs(z[c]), e[c], rest[c]);
      sum[c] = N(1) + e[c];
    }
    const N inverse = N(1) / (sum[0] * sum[1] * sum[2]);
    for (int c = 0; c < 3; ++c) {
      const N own = inverse * (sum[(c + 1) % 3] * sum[(c + 2) % 3]), size = rest[c] * own;
      tanh_[c] = {select(z[c] < N(0), -size, size), N(4) * e[c] * (own * own)};
    }
  }

  LogisticFactors<N> bin_[3];
  Coefficient<N> tanh_[3];
  N both_[3], inverse_;
  decltype(N(0) < N(0)) at_limit_[3];
};

}  // namespace aevb::AEVB_ISA
