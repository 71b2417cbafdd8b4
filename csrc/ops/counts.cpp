// The log-likelihoods of counts: Poisson, negative binomial, and that with additional zeros.
#include <ATen/ops/digamma.h>
#include <ATen/ops/log_sigmoid.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/where.h>

#include "ops/log_prob.h"

namespace aevb {
namespace {

using at::Tensor;

// x / rate, and 0 where both are.
Tensor over(const Tensor& x, const Tensor& rate) { return x / rate.masked_fill((x == 0).logical_and(rate == 0), 1); }

struct Poisson {
  AEVB_NAMES("poisson", "Poisson")
  static constexpr const char* argument = "form";
  static constexpr size_t count = 1;
  static constexpr Form forms[] = {{"log_rate", Formula::poisson, Spread::logvar, {"log_rate"}},
                                   {"rate", Formula::poisson, Spread::var, {"rate"}}};

  static variable_list derivatives(const Form& form, const Tensors& in, at::ArrayRef<bool> wanted) {
    const Tensor &x = in[0], &s = in[1];
    const bool log_rate = form.spread == Spread::logvar;
    variable_list d(2);
    if (wanted[0]) d[0] = (log_rate ? s : s.log()) - at::digamma(x + 1);
    if (wanted[1]) d[1] = log_rate ? x - s.exp() : over(x, s) - 1;
    return d;
  }
};

struct NegativeBinomial {
  AEVB_NAMES("negative_binomial", "NegativeBinomial")
  static constexpr const char* argument = "form";
  static constexpr size_t count = 2;
  static constexpr Form forms[] = {{"mean", Formula::negative_binomial, {}, {"mean", "dispersion"}},
                                   {"logits", Formula::negative_binomial_of_logits, {}, {"logits", "total_count"}}};

  static variable_list derivatives(const Form& form, const Tensors& in, at::ArrayRef<bool> wanted) {
    return form.formula == Formula::negative_binomial ? of_mean(in, wanted) : of_logits(in, wanted);
  }
  static variable_list of_mean(const Tensors& in, at::ArrayRef<bool> wanted) {
    const Tensor &x = in[0], &mean = in[1], &theta = in[2], total = mean + theta;
    variable_list d(4);
    if (wanted[0]) d[0] = (mean / total).log() + at::digamma(x + theta) - at::digamma(x + 1);
    if (wanted[1]) d[1] = over(x, mean) - (x + theta) / total;
    if (wanted[2]) d[2] = at::digamma(x + theta) - at::digamma(theta) + (theta / total).log() + (mean - x) / total;
    return d;
  }
  static variable_list of_logits(const Tensors& in, at::ArrayRef<bool> wanted) {
    const Tensor &x = in[0], &logits = in[1], &count = in[2];
    variable_list d(3);
    if (wanted[0]) d[0] = at::log_sigmoid(logits) + at::digamma(x + count) - at::digamma(x + 1);
    if (wanted[1]) d[1] = x * at::sigmoid(-logits) - count * at::sigmoid(logits);
    if (wanted[2]) d[2] = at::digamma(x + count) - at::digamma(count) + at::log_sigmoid(-logits);
    return d;
  }
};

struct ZeroInflatedNegativeBinomial {
  AEVB_NAMES("zero_inflated_negative_binomial", "ZeroInflatedNegativeBinomial")
  static constexpr const char* argument = "form";
  static constexpr size_t count = 3;
  static constexpr Form forms[] = {
      {"mean", Formula::zero_inflated_negative_binomial, {}, {"mean", "dispersion", "gate_logits"}}};

  // A zero is the gate's, or with probability `counted` the negative binomial's.
  static variable_list derivatives(const Form&, const Tensors& in, at::ArrayRef<bool> wanted) {
    const Tensor &mean = in[1], &theta = in[2], &gate = in[3], zero = in[0] == 0;
    const Tensor counted = at::sigmoid(theta * (theta / (mean + theta)).log() - gate);
    const Tensor x = at::where(zero, 0, in[0]);  // nothing depends on it where it is 0
    variable_list d = NegativeBinomial::of_mean({x, mean, theta}, wanted);
    if (wanted[0]) d[0] = at::where(zero, 0, d[0]);
    for (size_t k = 1; k < 3; ++k)
      if (wanted[k]) d[k] = at::where(zero, counted * d[k], d[k]);
    if (wanted[3]) d[3] = at::where(zero, at::sigmoid(-gate) - counted, -at::sigmoid(gate));
    return d;
  }
};

}  // namespace

AEVB_LOG_PROB("poisson", Poisson)
AEVB_LOG_PROB("negative_binomial", NegativeBinomial)
AEVB_LOG_PROB("zero_inflated_negative_binomial", ZeroInflatedNegativeBinomial)

}  // namespace aevb
