#include "cuda/rows.cuh"
#include "formulas/continuous.h"

namespace aevb::device {

template <>
constexpr bool is_compact<ContinuousBernoulli> = true;
template cudaError_t run<Forward, ContinuousBernoulli>(const RowCall&, cudaStream_t);
template cudaError_t run<Backward, ContinuousBernoulli>(const RowCall&, cudaStream_t);

}  // namespace aevb::device
