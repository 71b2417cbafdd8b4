// The log-likelihoods of locations and scales, and the continuous Bernoulli, over rows.
#include "formulas/continuous.h"

#include "cpu/families.h"
#include "cpu/rows.h"
#include "formulas/discretized_logistic.h"
#include "formulas/student_t.h"

namespace aevb::AEVB_ISA {
namespace {

struct OfContinuous {
  template <class T, class Run>
  static void with_formula(const RowCall& call, Run run) {
    constexpr Spread scale = Spread::std, log_scale = Spread::log_std;
    const Spread spread = call.params.spread;
    switch (call.formula) {
      case Formula::laplace: return with_spread<T, Laplace, scale, log_scale>(spread, run);
      case Formula::student_t: return with_spread<T, StudentT, scale, log_scale>(spread, run);
      case Formula::continuous_bernoulli: return run(Recipe<ContinuousBernoulli>());
      default: return with_spread<T, DiscretizedLogistic, scale, log_scale>(spread, run);
    }
  }
};

}  // namespace

void rows_of_continuous(const RowCall& call, int64_t begin, int64_t end) { run_rows<OfContinuous>(call, begin, end); }

}  // namespace aevb::AEVB_ISA
