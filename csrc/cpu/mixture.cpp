// Each lane has a component of its own, so that neither the dimensions nor the components of a row are summed across
// lanes before the row's end. A few rows go through the components together, and share what is loaded of them.
#include "cpu/mixture.h"

#include "cpu/vec.h"
#include "formulas/mixture.h"

namespace aevb::AEVB_ISA {

// A power of two is put together from its bits. Below the normal numbers the result is 0: a processor takes a hundred
// times as long for a number there, and beside a term of 1 it counts for nothing.
AEVB_INLINE F32 exp_of_difference(F32 x) {
  const SplitExp e(1, x, 127);
  return select(x < F32(-87.0), F32(0.0), (e.q + F32(1.0)) * power_of_two(e.power));
}

namespace {

constexpr int kTogether = 4;      // rows
constexpr int64_t kStretch = 64;  // dimensions that are summed by themselves: one long sum would lose a digit

// The components of a problem, `lanes` of them at a time: column number c.
template <class T>
class Components {
 public:
  static constexpr int lanes = Vec<T>::lanes, per_panel = kPanel / lanes;

  Components(const MixtureCall& call, int64_t problem) : event_(call.event) {
    const int64_t first = problem * call.components;
    mu_ = static_cast<const T*>(call.mu) + first * event_;
    inverse_std_ = static_cast<const T*>(call.inverse_std) + first * event_;
    log_weight_ = static_cast<const T*>(call.log_weight) + first;
  }

  // Where a column's numbers are: those of the next dimension are kPanel further on.
  AEVB_INLINE int64_t at(int64_t column) const {
    return column / per_panel * event_ * kPanel + column % per_panel * lanes;
  }
  AEVB_INLINE const T* mu(int64_t column) const { return mu_ + at(column); }
  AEVB_INLINE const T* inverse_std(int64_t column) const { return inverse_std_ + at(column); }
  AEVB_INLINE Vec<T> log_weight(int64_t column) const { return Vec<T>::load(log_weight_ + column * lanes); }

 private:
  int64_t event_;
  const T *mu_, *inverse_std_, *log_weight_;
};

// sum_d t_d^2 of `rows` rows, which are `step` numbers apart. `one`: there is one dimension.
template <bool one, int rows, class T>
AEVB_INLINE void squares(const T* z, int64_t step, const T* mu, const T* inverse_std, int64_t event,
                         Vec<T> (&sum)[rows]) {
  using N = Vec<T>;
  AEVB_UNROLL
  for (N& each : sum) each = N(0.0);
  if (one) event = 1;
  for (int64_t d = 0; d < event;) {
    const int64_t end = event - d < kStretch ? event : d + kStretch;
    N stretch[rows];
    AEVB_UNROLL
    for (N& each : stretch) each = N(0.0);
    for (; d < end; ++d) {
      const N m = N::load(mu + d * kPanel), s = N::load(inverse_std + d * kPanel);
      AEVB_UNROLL
      for (int r = 0; r < rows; ++r) {
        const N t = standardised_by(N(double(z[r * step + d])), m, s);
        stretch[r] = fma(t, t, stretch[r]);
      }
    }
    AEVB_UNROLL
    for (int r = 0; r < rows; ++r) sum[r] = sum[r] + stretch[r];
  }
}

template <class T>
T log_density_of(const LogSum<Vec<T>>& all) {
  T most = all.most.v[0];
  for (int i = 1; i < Vec<T>::lanes; ++i) most = all.most.v[i] > most ? T(all.most.v[i]) : most;
  const T total = sum(all.relative_to(Vec<T>(double(most))));
  return most + T(log(Vec<T>(double(total))).v[0]);
}

// The columns [from, to) for some rows of a tile.
template <bool one, int rows, class T>
void add_columns(const MixtureCall& call, const Components<T>& of, const T* z, int64_t from, int64_t to,
                 LogSum<Vec<T>>* sums) {
  using N = Vec<T>;
  const int64_t step = call.problems * call.event;
  LogSum<N> sum[rows];
  for (int r = 0; r < rows; ++r) sum[r] = sums[r];
  for (int64_t c = from; c < to; ++c) {
    N q[rows];
    squares<one, rows>(z, step, of.mu(c), of.inverse_std(c), call.event, q);
    const N log_weight = of.log_weight(c);
    AEVB_UNROLL
    for (int r = 0; r < rows; ++r) sum[r].add(fma(N(-0.5), q[r], log_weight));
  }
  for (int r = 0; r < rows; ++r) sums[r] = sum[r];
}

// Calls body(first, rows) for `count` rows, some at a time; `rows` is known to the compiler.
template <int rows>
struct Rows {
  static constexpr int count = rows;
};
template <class Body>
AEVB_INLINE void by_few(int64_t count, Body body) {
  int64_t r = 0;
  for (; r + kTogether <= count; r += kTogether) body(r, Rows<kTogether>());
  for (; r < count; ++r) body(r, Rows<1>());
}

// How many columns a few rows go through before others do: all that stay in the first-level cache.
template <bool one>
AEVB_INLINE int64_t columns_together(int64_t columns) {
  return one ? columns : 1;
}

template <class T, bool one>
void forward(const MixtureCall& call, int64_t begin, int64_t end) {
  using N = Vec<T>;
  const int64_t columns = call.components / N::lanes, step = call.problems * call.event;
  for (int64_t tile = begin; tile < end; ++tile) {
    const int64_t first = tile * kMixtureRows;
    const int64_t rows = call.rows - first < kMixtureRows ? call.rows - first : kMixtureRows;
    for (int64_t p = 0; p < call.problems; ++p) {
      const Components<T> of(call, p);
      const T* const z = static_cast<const T*>(call.z) + first * step + p * call.event;
      LogSum<N> sums[kMixtureRows];
      const int64_t some = columns_together<one>(columns);
      for (int64_t c = 0; c < columns; c += some)
        by_few(rows, [&](int64_t r, auto few) AEVB_INLINE_BODY {
          add_columns<one, few.count>(call, of, z + r * step, c, c + some, sums + r);
        });
      T* const to = static_cast<T*>(call.log_density) + first * call.problems + p;
      for (int64_t r = 0; r < rows; ++r) to[r * call.problems] = log_density_of<T>(sums[r]);
    }
  }
}

// Of one part and problem.
template <class T>
struct Sums {
  T *of_mu, *of_logvar, *of_log_weight;  // null: not wanted
  T* of_z;                               // [rows of a tile, event, lanes]
};

// Of a row.
template <class T>
struct Weight {
  T log_density, cotangent;
};

template <bool one, bool absent, int rows, class T>
AEVB_INLINE void add_products(const MixtureCall& call, const T* z, int64_t step, const T* mu, const T* inverse_std,
                              const Vec<T> (&w)[rows], T* of_mu, T* of_logvar, T* of_z) {
  using N = Vec<T>;
  const int64_t event = one ? 1 : call.event;
  for (int64_t d = 0; d < event; ++d) {
    const N m = N::load(mu + d * kPanel), s = N::load(inverse_std + d * kPanel);
    N dmu(0.0), dv(0.0);
    if (of_mu) dmu = N::load(of_mu + d * kPanel), dv = N::load(of_logvar + d * kPanel);
    AEVB_UNROLL
    for (int r = 0; r < rows; ++r) {
      T* const to = of_z + (r * event + d) * N::lanes;
      N minus_dz = N::load(to);
      add_gradients<absent>(w[r], standardised_by(N(double(z[r * step + d])), m, s), s, minus_dz, dmu, dv);
      minus_dz.store(to);
    }
    if (of_mu) dmu.store(of_mu + d * kPanel), dv.store(of_logvar + d * kPanel);
  }
}

template <bool one, int rows, class T>
void add_columns_gradients(const MixtureCall& call, const Components<T>& of, const T* z, int64_t from, int64_t to,
                           const Weight<T>* weights, const Sums<T>& sums) {
  using N = Vec<T>;
  const int64_t step = call.problems * call.event;
  for (int64_t c = from; c < to; ++c) {
    N q[rows], w[rows];
    squares<one, rows>(z, step, of.mu(c), of.inverse_std(c), call.event, q);
    const N log_weight = of.log_weight(c);
    typename N::mask present = {}, overflown = {};
    AEVB_UNROLL
    for (int r = 0; r < rows; ++r) {
      const N a = fma(N(-0.5), q[r], log_weight);
      w[r] = weight_of(a, N(double(weights[r].log_density)), N(double(weights[r].cotangent)));
      present |= ~(w[r] == N(0.0));
      overflown |= ~(q[r] < N(__builtin_inf()));
    }
    if (!N::any(present)) continue;  // as of most components that are far from these rows
    const int64_t at = of.at(c);
    T *of_mu = nullptr, *of_logvar = nullptr;
    if (sums.of_mu) {
      of_mu = sums.of_mu + at, of_logvar = sums.of_logvar + at;
      T* const log_weights = sums.of_log_weight + c * N::lanes;
      N total = N::load(log_weights);
      for (int r = 0; r < rows; ++r) total = total + w[r];
      total.store(log_weights);
    }
    if (N::any(overflown))
      add_products<one, true, rows>(call, z, step, of.mu(c), of.inverse_std(c), w, of_mu, of_logvar, sums.of_z);
    else
      add_products<one, false, rows>(call, z, step, of.mu(c), of.inverse_std(c), w, of_mu, of_logvar, sums.of_z);
  }
}

template <class T>
void fill_zeros(T* to, int64_t count) {
  if (to) memset(to, 0, count * sizeof(T));
}

template <class T, bool one>
void backward(const MixtureCall& call, int64_t begin, int64_t end) {
  using N = Vec<T>;
  const int64_t columns = call.components / N::lanes, step = call.problems * call.event;
  const int64_t size = call.components * call.event;  // of a problem's parameters
  for (int64_t part = begin; part < end; ++part) {
    const int64_t first_of_part = part * call.rows_per_part, left = call.rows - first_of_part;
    const int64_t end_of_part = first_of_part + (left < call.rows_per_part ? left : call.rows_per_part);
    T* const of_z = static_cast<T*>(call.scratch) + part * kMixtureRows * call.event * kPanel;
    for (int64_t p = 0; p < call.problems; ++p) {
      const Components<T> of(call, p);
      Sums<T> sums = {nullptr, nullptr, nullptr, of_z};
      if (call.of_mu) {
        const int64_t number = part * call.problems + p;
        sums.of_mu = static_cast<T*>(call.of_mu) + number * size;
        sums.of_logvar = static_cast<T*>(call.of_logvar) + number * size;
        sums.of_log_weight = static_cast<T*>(call.of_log_weight) + number * call.components;
        fill_zeros(sums.of_mu, size), fill_zeros(sums.of_logvar, size);
        fill_zeros(sums.of_log_weight, call.components);
      }
      for (int64_t first = first_of_part; first < end_of_part; first += kMixtureRows) {
        const int64_t rows = end_of_part - first < kMixtureRows ? end_of_part - first : kMixtureRows;
        const T* const z = static_cast<const T*>(call.z) + first * step + p * call.event;
        Weight<T> weights[kMixtureRows];
        for (int64_t r = 0; r < rows; ++r) {
          const int64_t at = (first + r) * call.problems + p;
          weights[r] = {static_cast<const T*>(call.log_density)[at], static_cast<const T*>(call.cotangent)[at]};
          without_infinite_density(weights[r].log_density, weights[r].cotangent);
        }
        fill_zeros(of_z, rows * call.event * N::lanes);
        const int64_t some = columns_together<one>(columns);
        for (int64_t c = 0; c < columns; c += some)
          by_few(rows, [&](int64_t r, auto few) AEVB_INLINE_BODY {
            Sums<T> of_rows = sums;
            of_rows.of_z += r * call.event * N::lanes;
            add_columns_gradients<one, few.count>(call, of, z + r * step, c, c + some, weights + r, of_rows);
          });
        if (!call.dz) continue;
        T* const dz = static_cast<T*>(call.dz) + first * step + p * call.event;
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t d = 0; d < call.event; ++d)
            dz[r * step + d] = -sum(N::load(of_z + (r * call.event + d) * N::lanes));
      }
    }
  }
}

}  // namespace

void mixture_forward(const MixtureCall& call, int64_t begin, int64_t end) {
  const bool one = call.event == 1;
  if (call.wide == Type::f64)
    one ? forward<double, true>(call, begin, end) : forward<double, false>(call, begin, end);
  else
    one ? forward<float, true>(call, begin, end) : forward<float, false>(call, begin, end);
}

void mixture_backward(const MixtureCall& call, int64_t begin, int64_t end) {
  const bool one = call.event == 1;
  if (call.wide == Type::f64)
    one ? backward<double, true>(call, begin, end) : backward<double, false>(call, begin, end);
  else
    one ? backward<float, true>(call, begin, end) : backward<float, false>(call, begin, end);
}

}  // namespace aevb::AEVB_ISA
