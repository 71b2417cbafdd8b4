#include "cuda/rows.cuh"

namespace aevb::device {

template cudaError_t run<Forward, GaussianKlPrior>(const RowCall&, cudaStream_t);
template cudaError_t run<Backward, GaussianKlPrior>(const RowCall&, cudaStream_t);

}  // namespace aevb::device
