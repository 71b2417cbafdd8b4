// The log-likelihoods of locations and scales (Laplace, Student t, discretized logistic), and the continuous Bernoulli.
#include <ATen/ops/digamma.h>
#include <ATen/ops/log1p.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/where.h>

#include "ops/log_prob.h"

namespace aevb {
namespace {

using at::Tensor;

// A scale as it is given, and its derivative: ds / d given.
struct Scale {
  Tensor s, slope;
  Scale(const Form& form, const Tensor& given) {
    const bool log = form.spread == Spread::log_std;
    s = log ? given.exp() : given;
    slope = log ? s : at::ones_like(given);
  }
};

struct Laplace {
  AEVB_NAMES("laplace", "Laplace")
  static constexpr const char* argument = "spread";
  static constexpr size_t count = 2;
  static constexpr Form forms[] = {{"scale", Formula::laplace, Spread::std, {"mu", "scale"}},
                                   {"log_scale", Formula::laplace, Spread::log_std, {"mu", "scale"}}};

  static variable_list derivatives(const Form& form, const Tensors& in, at::ArrayRef<bool> wanted) {
    const Tensor difference = in[0] - in[1];
    const Scale scale(form, in[2]);
    variable_list d(3);
    if (wanted[1] || wanted[0]) d[1] = difference.sign() / scale.s;
    if (wanted[0]) d[0] = -d[1];
    if (wanted[2]) d[2] = (difference.abs() / scale.s - 1) / scale.s * scale.slope;
    return d;
  }
};

struct StudentT {
  AEVB_NAMES("student_t", "StudentT")
  static constexpr const char* argument = "spread";
  static constexpr size_t count = 3;
  static constexpr Form forms[] = {{"scale", Formula::student_t, Spread::std, {"mu", "scale", "df"}},
                                   {"log_scale", Formula::student_t, Spread::log_std, {"mu", "scale", "df"}}};

  static variable_list derivatives(const Form& form, const Tensors& in, at::ArrayRef<bool> wanted) {
    const Scale scale(form, in[2]);
    const Tensor& df = in[3];
    const Tensor t = (in[0] - in[1]) / scale.s, weight = (df + 1) / (df + t * t), of_square = weight * t * t;
    variable_list d(4);
    if (wanted[1] || wanted[0]) d[1] = weight * t / scale.s;
    if (wanted[0]) d[0] = -d[1];
    if (wanted[2]) d[2] = (of_square - 1) / scale.s * scale.slope;
    if (wanted[3])
      d[3] = 0.5 * (at::digamma((df + 1) / 2) - at::digamma(df / 2) - at::log1p(t * t / df) + (of_square - 1) / df);
    return d;
  }
};

struct ContinuousBernoulli {
  AEVB_NAMES("continuous_bernoulli", "ContinuousBernoulli")
  static constexpr const char* argument = "form";
  static constexpr size_t count = 1;
  static constexpr Form forms[] = {{"logits", Formula::continuous_bernoulli, {}, {"logits"}}};

  static variable_list derivatives(const Form&, const Tensors& in, at::ArrayRef<bool> wanted) {
    variable_list d(2);
    if (wanted[0]) d[0] = in[1];
    if (wanted[1]) d[1] = in[0] - mean(in[1]);
    return d;
  }

 private:
  // The mean of the distribution, 1 / (1 - e^-l) - 1 / l. Near 0, where both are infinite, it is a series.
  static Tensor mean(const Tensor& l) {
    const Tensor near = l.abs() < 0.3, far = at::where(near, 1, l), square = at::where(near, l, 0).square();
    Tensor series = square * (1. / 47900160) - 1. / 1209600;
    for (const double c : {1. / 30240, -1. / 720, 1. / 12}) series = series * square + c;
    return at::where(near, l * series + 0.5, -(-far).expm1().reciprocal() - far.reciprocal());
  }
};

struct DiscretizedLogistic {
  AEVB_NAMES("discretized_logistic", "DiscretizedLogistic")
  static constexpr const char* argument = "spread";
  static constexpr size_t count = 2;
  static constexpr Form forms[] = {{"log_scale", Formula::discretized_logistic, Spread::log_std, {"mu", "log_scale"}},
                                   {"scale", Formula::discretized_logistic, Spread::std, {"mu", "log_scale"}}};

  // log P = log sigmoid(upper) + log sigmoid(-lower) + log(1 - e^-width), of the bin's edges in scales; the first bin
  // has no lower edge, the last none above.
  static variable_list derivatives(const Form& form, const Tensors& in, at::ArrayRef<bool> wanted) {
    constexpr double half = 0.5 / 255;
    const Scale scale(form, in[2]);
    const Tensor x = (255 * in[0]).round() / 255, centred = x - in[1], first = x < half, last = x > 1 - half;
    const Tensor upper = (centred + half) / scale.s, lower = (centred - half) / scale.s, width = 2 * half / scale.s;
    const Tensor by_upper = at::where(last, 0, at::sigmoid(-upper)), by_lower = at::where(first, 0, at::sigmoid(lower));
    variable_list d(3);
    if (wanted[0]) d[0] = at::zeros_like(centred);  // x is the name of a bin
    if (wanted[1]) d[1] = (by_lower - by_upper) / scale.s;
    if (wanted[2]) {
      const Tensor by_width = at::where(first.logical_or(last), 0, width / width.expm1());
      d[2] = (at::where(first, 0, lower * by_lower) - at::where(last, 0, upper * by_upper) - by_width) / scale.s *
             scale.slope;
    }
    return d;
  }
};

}  // namespace

AEVB_LOG_PROB("laplace", Laplace)
AEVB_LOG_PROB("student_t", StudentT)
AEVB_LOG_PROB("continuous_bernoulli", ContinuousBernoulli)
AEVB_LOG_PROB("discretized_logistic", DiscretizedLogistic)

}  // namespace aevb
