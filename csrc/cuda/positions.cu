// Dispatches a call over positions to its formula.
#include "cuda/positions.cuh"

namespace aevb::cuda {

cudaError_t positions(const PositionCall& call, cudaStream_t stream) {
  if (call.rows == 0 || call.event == 0) return cudaSuccess;
  switch (call.formula) {
    case PositionFormula::categorical: return device::categorical(call, stream);
    case PositionFormula::discretized_logistic_mixture: return device::discretized_logistic_mixture(call, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace aevb::cuda
