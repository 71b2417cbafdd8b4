// A formula's values and gradients at operands in a file, by the CPU's vectors or, with tests/emulation among the
// headers AEVB_SCALARS, by the GPU's scalars:
//   evaluate FORMULA float|double SPREAD X_SCALE COUNT OPERANDS RESULTS
// OPERANDS has COUNT numbers of each operand, one operand after the other, and RESULTS the values and then the
// gradients. SPREAD is the index in `enum class Spread`.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#ifdef AEVB_SCALARS
#include "cuda/scalar.h"
#else
#include "cpu/vec.h"
#endif
#include "formulas/continuous.h"
#include "formulas/counts.h"
#include "formulas/discretized_logistic.h"
#include "formulas/student_t.h"

using namespace aevb;
using namespace aevb::AEVB_ISA;

#ifdef AEVB_SCALARS
template <class T>
using Number = Scalar<T>;
#else
template <class T>
using Number = Vec<T>;
#endif

template <class N>
struct Element;
template <class T>
struct Element<Number<T>> {
  using type = T;
};

struct Call {
  std::string formula, type;
  Spread spread;
  double x_scale;
  size_t count;
  const char *operands, *results;
};

template <class F>
F make(const Call& call) {
  if constexpr (has_spread<F>)
    return {call.x_scale, {call.spread}};
  else
    return {call.x_scale};
}

// Whether all lanes have the same bits, or are NaN.
template <class N>
bool same(const N& a, const N& b) {
  typename Element<N>::type x[sizeof(N) / sizeof(typename Element<N>::type)], y[sizeof x / sizeof *x];
  memcpy(x, &a, sizeof x);
  memcpy(y, &b, sizeof y);
  for (size_t lane = 0; lane < sizeof x / sizeof *x; ++lane)
    if (memcmp(&x[lane], &y[lane], sizeof *x) && (x[lane] == x[lane] || y[lane] == y[lane])) return false;
  return true;
}

// Fails where a formula that computes value and gradient at once gives others than apart.
template <class N, class F, class... Index>
void evaluate(const F& formula, const std::vector<N>* in, std::vector<N>* out, Index... k) {
  for (size_t i = 0; i < in[0].size(); ++i) {
    N d[F::arity];
    out[0][i] = formula.value(in[k][i]...);
    if constexpr (requires { formula.gradient(in[k][i]..., d[k]...); }) {
      formula.gradient(in[k][i]..., d[k]...);
    } else {
      N with_value;
      formula.value_and_gradient(true, with_value, in[k][i]..., d[k]...);
    }
    (void(out[1 + k][i] = d[k]), ...);
    if constexpr (requires(N value) { formula.value_and_gradient(true, value, in[k][i]..., d[k]...); }) {
      for (bool of_x : {true, false}) {
        N both[1 + F::arity];
        formula.value_and_gradient(of_x, both[0], in[k][i]..., both[1 + k]...);
        if (!of_x) both[1] = d[0];
        for (int j = 0; j <= F::arity; ++j)
          if (!same(both[j], out[j][i])) exit(3);
      }
    }
  }
}

template <class F, class T>
void run(const Call& call) {
  using N = Number<T>;
  constexpr size_t lanes = sizeof(N) / sizeof(T);
  const size_t vectors = (call.count + lanes - 1) / lanes;
  std::vector<N> in[F::arity], out[1 + F::arity];
  FILE* file = fopen(call.operands, "rb");
  bool done = file;
  for (auto& operand : in) {
    operand.assign(vectors, N(1.0));
    done = done && fread(operand.data(), sizeof(T), call.count, file) == call.count;
  }
  for (auto& result : out) result.resize(vectors);
  if constexpr (F::arity == 2) evaluate(make<F>(call), in, out, 0, 1);
  if constexpr (F::arity == 3) evaluate(make<F>(call), in, out, 0, 1, 2);
  if constexpr (F::arity == 4) evaluate(make<F>(call), in, out, 0, 1, 2, 3);
  if (file) fclose(file);
  file = fopen(call.results, "wb");
  done = done && file;
  for (auto& result : out) done = done && fwrite(result.data(), sizeof(T), call.count, file) == call.count;
  if (!done || fclose(file)) exit(2);
}

template <class F>
bool run_if(const char* name, const Call& call) {
  if (call.formula != name) return false;
  call.type == "float" ? run<F, float>(call) : run<F, double>(call);
  return true;
}

int main(int count, char** words) {
  if (count != 8) return 1;
  const Call call = {words[1], words[2], Spread(atoi(words[3])), atof(words[4]), size_t(atol(words[5])),
                     words[6], words[7]};
  const bool known = run_if<Poisson>("poisson", call) || run_if<NegativeBinomial>("negative_binomial", call) ||
                     run_if<NegativeBinomialOfLogits>("negative_binomial_of_logits", call) ||
                     run_if<ZeroInflatedNegativeBinomial>("zero_inflated_negative_binomial", call) ||
                     run_if<Laplace>("laplace", call) || run_if<StudentT>("student_t", call) ||
                     run_if<ContinuousBernoulli>("continuous_bernoulli", call) ||
                     run_if<DiscretizedLogistic>("discretized_logistic", call);
  return known ? 0 : 1;
}
