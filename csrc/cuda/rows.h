// Declares the two directions of a formula over rows: rows.cu calls them, and each formula's file compiles them.
#pragma once
#include <cuda_runtime_api.h>

#include "call.h"

namespace aevb::device {

struct Bernoulli;
struct BernoulliOfProbs;
struct Gaussian;
struct GaussianOfSigmoid;
struct GaussianKl;
struct GaussianKlPrior;
struct Poisson;
struct NegativeBinomial;
struct NegativeBinomialOfLogits;
struct ZeroInflatedNegativeBinomial;
struct Laplace;
struct StudentT;
struct ContinuousBernoulli;
struct DiscretizedLogistic;

struct Forward;
struct Backward;

template <class Direction, class F>
cudaError_t run(const RowCall& call, cudaStream_t stream);

}  // namespace aevb::device
