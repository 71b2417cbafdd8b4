#include "cuda/rows.cuh"
#include "formulas/gaussian.h"

namespace aevb::device {

template cudaError_t run<Forward, GaussianOfSigmoid>(const RowCall&, cudaStream_t);
template cudaError_t run<Backward, GaussianOfSigmoid>(const RowCall&, cudaStream_t);

}  // namespace aevb::device
