// A formula's values and gradients at operands in a file, on the CPU's number types:
//   evaluate FORMULA float|double SPREAD X_SCALE COUNT OPERANDS RESULTS
// OPERANDS has COUNT numbers of each operand, one operand after the other; RESULTS the values and then the gradients.
// The numbers after the first so many are for the lanes of the last vector. SPREAD is the index in `enum class Spread`.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "cpu/vec.h"
#include "formulas/counts.h"

using namespace aevb;
using namespace aevb::AEVB_ISA;

struct Call {
  std::string formula, type;
  Spread spread;
  double x_scale;
  long count;
  const char *operands, *results;
};

template <class F>
F make(const Call& call) {
  if constexpr (has_spread<F>)
    return {call.x_scale, {call.spread}};
  else
    return {call.x_scale};
}

template <class N, class F>
void evaluate(const F& formula, const std::vector<N>* in, std::vector<N>* out) {
  for (size_t i = 0; i < in[0].size(); ++i) {
    N d[4];
    if constexpr (F::arity == 2) {
      out[0][i] = formula.value(in[0][i], in[1][i]);
      formula.gradient(in[0][i], in[1][i], d[0], d[1]);
    } else if constexpr (F::arity == 3) {
      out[0][i] = formula.value(in[0][i], in[1][i], in[2][i]);
      formula.gradient(in[0][i], in[1][i], in[2][i], d[0], d[1], d[2]);
    } else {
      out[0][i] = formula.value(in[0][i], in[1][i], in[2][i], in[3][i]);
      formula.gradient(in[0][i], in[1][i], in[2][i], in[3][i], d[0], d[1], d[2], d[3]);
    }
    for (int k = 0; k < F::arity; ++k) out[1 + k][i] = d[k];
  }
}

template <class F, class T>
void run(const Call& call) {
  using N = Vec<T>;
  const size_t vectors = (call.count + N::lanes - 1) / N::lanes;
  std::vector<N> in[F::arity], out[1 + F::arity];
  FILE* file = fopen(call.operands, "rb");
  bool done = file;
  for (auto& operand : in) {
    operand.assign(vectors, N(1.0));
    done = done && fread(operand.data(), sizeof(T), call.count, file) == size_t(call.count);
  }
  for (auto& result : out) result.resize(vectors);
  evaluate(make<F>(call), in, out);
  if (file) fclose(file);
  file = fopen(call.results, "wb");
  done = done && file;
  for (auto& result : out) done = done && fwrite(result.data(), sizeof(T), call.count, file) == size_t(call.count);
  if (!done || fclose(file)) exit(2);
}

template <class F>
bool run_if(const char* name, const Call& call) {
  if (call.formula != name) return false;
  call.type == "float" ? run<F, float>(call) : run<F, double>(call);
  return true;
}

int main(int, char** words) {
  const Call call = {words[1], words[2], Spread(atoi(words[3])), atof(words[4]), atol(words[5]), words[6], words[7]};
  const bool known = run_if<Poisson>("poisson", call) || run_if<NegativeBinomial>("negative_binomial", call) ||
                     run_if<NegativeBinomialOfLogits>("negative_binomial_of_logits", call) ||
                     run_if<ZeroInflatedNegativeBinomial>("zero_inflated_negative_binomial", call);
  return known ? 0 : 1;
}
