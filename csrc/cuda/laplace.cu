#include "cuda/rows.cuh"
#include "formulas/continuous.h"

namespace aevb::device {

template <>
constexpr bool is_compact<Laplace> = true;
template cudaError_t run<Forward, Laplace>(const RowCall&, cudaStream_t);
template cudaError_t run<Backward, Laplace>(const RowCall&, cudaStream_t);

}  // namespace aevb::device
