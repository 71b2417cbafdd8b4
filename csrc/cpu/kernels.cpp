// One object for each instruction set: AEVB_ISA, its namespace, and the compiler's flags come from setup.py.
#include "cpu/bits.h"
#include "cpu/families.h"
#include "cpu/layer.h"
#include "cpu/mixture.h"
#include "cpu/positions.h"
#include "formulas/bernoulli.h"
#include "formulas/gaussian.h"

namespace aevb::AEVB_ISA {
namespace {

struct OfBernoulliAndGaussian {
  template <class T, class Run>
  static void with_formula(const RowCall& call, Run run) {
    if (call.formula == Formula::bernoulli) return run(Recipe<Bernoulli>());
    if (call.formula == Formula::bernoulli_of_probs) return run(Recipe<BernoulliOfProbs>());
    if (call.formula == Formula::gaussian_of_sigmoid) return run(Recipe<GaussianOfSigmoid>());
    const Spread spread = call.params.spread;
    if (call.formula == Formula::gaussian) return with_spread<T, Gaussian, Spread::logvar, any_spread>(spread, run);
    if (call.formula == Formula::gaussian_kl)
      return with_spread<T, GaussianKl, Spread::logvar, any_spread>(spread, run);
    with_spread<T, GaussianKlPrior, Spread::logvar, any_spread>(spread, run);
  }
};

void rows(const RowCall& call, int64_t begin, int64_t end) {
  if (is_of_counts(call.formula)) return rows_of_counts(call, begin, end);
  if (is_continuous(call.formula)) return rows_of_continuous(call, begin, end);
  run_rows<OfBernoulliAndGaussian>(call, begin, end);
}

void sample_forward(const SampleCall& call, int64_t begin, int64_t end) {
  call.wide == Type::f64 ? samples_forward<double>(call, begin, end) : samples_forward<float>(call, begin, end);
}

void sample_backward(const SampleCall& call, int64_t begin, int64_t end) {
  call.wide == Type::f64 ? samples_backward<double>(call, begin, end) : samples_backward<float>(call, begin, end);
}

void binarize(const BinarizeCall& call, int64_t begin, int64_t end) {
  call.wide == Type::f64 ? draw_bits<double>(call, begin, end) : draw_bits<float>(call, begin, end);
}

#define AEVB_TEXT(text) #text
#define AEVB_NAME(isa) AEVB_TEXT(isa)

}  // namespace

extern const CpuKernels kernels = {AEVB_NAME(AEVB_ISA), tiles,           rows,
                                   position_tiles,      categorical,     discretized_logistic_mixture,
                                   sample_forward,      sample_backward, binarize,
                                   unpack_bits,         activate,        activate_backward,
                                   scale_bytes,         mixture_forward, mixture_backward};

}  // namespace aevb::AEVB_ISA
