// The log-likelihoods of counts, over rows.
#include "formulas/counts.h"

#include "cpu/families.h"
#include "cpu/rows.h"

namespace aevb::AEVB_ISA {
namespace {

struct OfCounts {
  template <class T, class Run>
  static void with_formula(const RowCall& call, Run run) {
    switch (call.formula) {
      case Formula::poisson: return with_spread<T, Poisson, Spread::logvar, Spread::var>(call.params.spread, run);
      case Formula::negative_binomial: return run(Recipe<NegativeBinomial>());
      case Formula::negative_binomial_of_logits: return run(Recipe<NegativeBinomialOfLogits>());
      default: return run(Recipe<ZeroInflatedNegativeBinomial>());
    }
  }
};

}  // namespace

void rows_of_counts(const RowCall& call, int64_t begin, int64_t end) { run_rows<OfCounts>(call, begin, end); }

}  // namespace aevb::AEVB_ISA
