// An object for each instruction set, like kernels.cpp.
#include "cpu/discretized_logistic_mixture.h"

namespace aevb::AEVB_ISA {

void discretized_logistic_mixture(const PositionCall& call, int64_t begin, int64_t end) {
  const auto run = [&](auto&& kernel) {
    for_each_position_tile(call, begin, end, [&](const PositionTile& tile) { kernel.run(tile); });
  };
  call.wide == Type::f64 ? run(DiscretizedLogisticMixture<double>(call)) : run(DiscretizedLogisticMixture<float>(call));
}

}  // namespace aevb::AEVB_ISA
