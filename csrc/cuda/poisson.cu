#include "cuda/rows.cuh"
#include "formulas/counts.h"

namespace aevb::device {

template <>
constexpr bool is_compact<Poisson> = true;
template cudaError_t run<Forward, Poisson>(const RowCall&, cudaStream_t);
template cudaError_t run<Backward, Poisson>(const RowCall&, cudaStream_t);

}  // namespace aevb::device
