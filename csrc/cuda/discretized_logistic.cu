#include "cuda/rows.cuh"
#include "formulas/discretized_logistic.h"

namespace aevb::device {

template <>
constexpr bool is_compact<DiscretizedLogistic> = true;
template cudaError_t run<Forward, DiscretizedLogistic>(const RowCall&, cudaStream_t);
template cudaError_t run<Backward, DiscretizedLogistic>(const RowCall&, cudaStream_t);

}  // namespace aevb::device
