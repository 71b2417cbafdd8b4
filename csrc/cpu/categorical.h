// log p(x | logits) of classes, l_x - log sum e^l, and its gradient, onehot(x) - softmax(l). The sum is streamed:
// nothing of the size of the logits is kept from it.
#pragma once
#include "cpu/positions.h"
#include "formulas/exp_sum.h"

namespace aevb::AEVB_ISA {

template <class T>
class Categorical {
 public:
  using N = Vec<T>;
  explicit Categorical(const PositionCall& call) : call_(call), size_(call.size) {}

  void run(const PositionTile& tile) {
    load_classes(tile);
    load_chosen(tile);
    if (call_.gradient) stage_cotangents(call_, tile, cotangent_.data);
    // A few classes fill a register less well than several positions do.
    call_.parameters.step == 1 && size_ >= 4 * lanes ? each_alone(tile) : together(tile);
    if (!call_.value.data) return;
    for (int p = 0; p < tile.count; p += lanes) {
      const N above = N::load(chosen_.data + p) - N::load(top_.data + p);
      (above - log(N::load(total_.data + p))).store(chosen_.data + p);
    }
    deliver(call_, tile, chosen_.data);
  }

 private:
  static constexpr int lanes = N::lanes;
  static constexpr int kNumbers = 16384;  // logits that are computed together
  static constexpr int kChain = 64;       // of them that are added one after another

  // The class of each position; -1 if it is none.
  void load_classes(const PositionTile& tile) {
    with_type(call_.x.first.type, call_.x.first.data, [&](auto* x) AEVB_INLINE_BODY {
      for_each_run(call_.x.first, tile.first, tile.count, [&](int done, int64_t offset, int64_t step, int run) {
        for (int p = 0; p < run; ++p) class_[done + p] = class_of(x[offset + p * step]);
      });
    });
  }
  template <class X>
  int64_t class_of(X x) const {
    if constexpr (std::is_integral_v<X>) {
      return x >= 0 && int64_t(x) < size_ ? int64_t(x) : -1;
    } else {
      const double given = widen_one<double>(x);
      if (!(given >= 0 && given < double(size_))) return -1;
      return double(int64_t(given)) == given ? int64_t(given) : -1;
    }
  }

  // The logits of the positions' classes; NaN where there is no such class.
  void load_chosen(const PositionTile& tile) {
    const Input& first = call_.parameters.first;
    with_type(first.type, first.data, [&](auto* logits) AEVB_INLINE_BODY {
      for_each_run(first, tile.first, tile.count, [&](int done, int64_t offset, int64_t step, int run) {
        for (int p = 0; p < run; ++p) {
          const int64_t x = class_[done + p];
          chosen_.data[done + p] =
              x < 0 ? T(__builtin_nan("")) : widen_one<T>(logits[offset + p * step + x * call_.parameters.step]);
        }
      });
    });
  }

  // What e^(l - top) is multiplied by in the gradient. If there is no such class, it is NaN.
  T factor(int p) const { return class_[p] < 0 ? T(__builtin_nan("")) : -cotangent_.data[p] / total_.data[p]; }

  // Each position's logits follow each other: a register has several logits of one position.
  void each_alone(const PositionTile& tile) {
    with_type(call_.parameters.first.type, call_.parameters.first.data, [&](auto* logits) AEVB_INLINE_BODY {
      for_each_run(call_.parameters.first, tile.first, tile.count,
                   [&](int done, int64_t offset, int64_t step, int run) {
                     for (int p = 0; p < run; ++p) alone(logits + offset + p * step, tile.first + done + p, done + p);
                   });
    });
  }
  template <class L>
  void alone(const L* logits, int64_t position, int p) {
    const int most = size_ < kNumbers ? int(size_) : kNumbers;
    const bool once = size_ <= kNumbers;  // all that is needed for the gradient fits a buffer
    ExpSum<N> sum;
    for (int64_t from = 0; from < size_; from += most) {
      const int count = int(size_ - from < most ? size_ - from : most);
      const T* const l = staged(logits + from, count);
      sum.raise(larger(sum.top, N(double(largest(l, count)))));
      T* const kept = once && call_.gradient ? computed_ : nullptr;
      sum.total = sum.total + N(double(sum_of_exp(l, count, sum.top, kept)));
    }
    top_.data[p] = sum.top.v[0], total_.data[p] = sum.total.v[0];
    if (!call_.gradient) return;
    const N times(double(factor(p)));
    for (int64_t from = 0; from < size_; from += most) {
      const int count = int(size_ - from < most ? size_ - from : most);
      if (!once) sum_of_exp(staged(logits + from, count), count, sum.top, computed_);
      for (int i = 0; i < count; i += lanes) (N::load(computed_ + i) * times).store(computed_ + i);
      const int64_t chosen = class_[p] - from;
      if (0 <= chosen && chosen < count) computed_[chosen] += cotangent_.data[p];
      store_numbers(call_, from, count, position, computed_);
    }
  }
  template <class L>
  const T* staged(const L* logits, int count) {
    if constexpr (std::is_same_v<L, T>) {
      return logits;
    } else {
      gather(logits, 1, count, logits_);
      return logits_;
    }
  }
  static T largest(const T* l, int count) {
    T most = l[0];
    int i = 0;
    if (count >= lanes) {
      N of_lanes = N::load(l + count - lanes);
      for (; i + lanes <= count; i += lanes) of_lanes = larger(of_lanes, N::load(l + i));
      for (int k = 0; k < lanes; ++k) most = of_lanes.v[k] > most ? of_lanes.v[k] : most;
      return most;
    }
    for (; i < count; ++i) most = l[i] > most ? l[i] : most;
    return most;
  }
  // sum e^(l - top), whose terms are kept if there is a place for them. Several sums are as many chains of additions,
  // and each is a shorter one.
  static T sum_of_exp(const T* l, int count, N top, T* kept) {
    N total[4] = {N(0.0), N(0.0), N(0.0), N(0.0)};
    int i = 0;
    const auto add = [&](N& sum, int at, N e) AEVB_INLINE_BODY {
      sum = sum + e;
      if (kept) e.store(kept + at);
    };
    for (; i + 4 * lanes <= count; i += 4 * lanes)
      for (int k = 0; k < 4; ++k) add(total[k], i + k * lanes, exp(N::load(l + i + k * lanes) - top));
    for (; i + lanes <= count; i += lanes) add(total[0], i, exp(N::load(l + i) - top));
    if (const int rest = count - i) add(total[1], i, exp(N::load(l + i, rest) - top).first(rest));
    return sum((total[0] + total[1]) + (total[2] + total[3]));
  }

  // A register has one logit of several positions.
  void together(const PositionTile& tile) {
    // All classes of a few positions or, of classes too many for that, some of more positions, whose runs are longer.
    const bool wide = size_ * 4 * lanes <= kNumbers || size_ * lanes > kNumbers;
    const int width = wide && tile.count > lanes ? 4 * lanes : lanes;
    for (int p = 0; p < tile.count; p += width)
      together(tile.first, p, tile.count - p < width ? tile.count - p : width, width);
  }
  void together(int64_t first, int p, int count, int width) {
    const int most = size_ * width <= kNumbers ? int(size_) : kNumbers / width;
    const bool once = size_ <= most;
    ExpSum<N> sums[4];
    for (int64_t from = 0; from < size_; from += most) {
      const int some = int(size_ - from < most ? size_ - from : most);
      load_panel(call_.parameters, from, some, first + p, count, computed_, width);
      for (int k = 0; k < width / lanes; ++k) {
        ExpSum<N>& sum = sums[k];
        N highest = sum.top;
        for (int c = 0; c < some; ++c) highest = larger(highest, N::load(computed_ + c * width + k * lanes));
        sum.raise(highest);
        N of_block(0.0);
        for (int begin = 0; begin < some; begin += kChain) {
          N part(0.0);
          for (int c = begin; c < some && c < begin + kChain; ++c) {
            T* const at = computed_ + c * width + k * lanes;
            const N e = exp(N::load(at) - sum.top);
            part = part + e;
            if (call_.gradient) e.store(at);
          }
          of_block = of_block + part;
        }
        sum.total = sum.total + of_block;
      }
    }
    for (int k = 0; k < width / lanes; ++k) {
      sums[k].top.store(top_.data + p + k * lanes);
      sums[k].total.store(total_.data + p + k * lanes);
    }
    if (!call_.gradient) return;
    alignas(64) T times[4 * lanes] = {};
    for (int i = 0; i < count; ++i) times[i] = factor(p + i);
    for (int64_t from = 0; from < size_; from += most) {
      const int some = int(size_ - from < most ? size_ - from : most);
      if (!once) load_panel(call_.parameters, from, some, first + p, count, computed_, width);
      for (int k = 0; k < width / lanes; ++k)
        for (int c = 0; c < some; ++c) {
          T* const at = computed_ + c * width + k * lanes;
          const N given = N::load(at), e = once ? given : exp(given - sums[k].top);
          (e * N::load(times + k * lanes)).store(at);
        }
      for (int i = 0; i < count; ++i)
        if (const int64_t c = class_[p + i] - from; 0 <= c && c < some)
          computed_[c * width + i] += cotangent_.data[p + i];
      store_panel(call_, from, some, first + p, count, computed_, width);
    }
  }

  const PositionCall& call_;
  const int64_t size_;
  int64_t class_[kPositions];
  PositionNumbers<T> chosen_, top_, total_, cotangent_;
  // In these whole vectors are read and written. They begin as numbers, so that what is behind the last is none other.
  alignas(64) T logits_[kNumbers + 16] = {}, computed_[kNumbers + 16] = {};
};

}  // namespace aevb::AEVB_ISA
