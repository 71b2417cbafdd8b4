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
    switch (call.formula) {
      case Formula::laplace: return run(Recipe<Laplace, false>());
      case Formula::student_t: return run(Recipe<StudentT, false>());
      case Formula::continuous_bernoulli: return run(Recipe<ContinuousBernoulli, false>());
      default: return run(Recipe<DiscretizedLogistic, false>());
    }
  }
};

}  // namespace

void rows_of_continuous(const RowCall& call, int64_t begin, int64_t end) { run_rows<OfContinuous>(call, begin, end); }

}  // namespace aevb::AEVB_ISA
