#include "cuda/rows.cuh"
#include "formulas/bernoulli.h"

namespace aevb::device {

template cudaError_t run<Forward, Bernoulli>(const RowCall&, cudaStream_t);
template cudaError_t run<Backward, Bernoulli>(const RowCall&, cudaStream_t);

}  // namespace aevb::device
