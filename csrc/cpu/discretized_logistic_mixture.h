// log p(x | parameters) of the pixels of an image under a mixture of discretised logistics, and its gradient.
#pragma once
#include "cpu/positions.h"
#include "formulas/discretized_logistic_mixture.h"
#include "formulas/exp_sum.h"

namespace aevb::AEVB_ISA {

template <class T>
class DiscretizedLogisticMixture {
 public:
  using N = Vec<T>;
  explicit DiscretizedLogisticMixture(const PositionCall& call)
      : call_(call),
        layout_{call.size / 10},
        width_(width_for(call.size)),
        parameters_(call.size * width_),
        gradient_(call.gradient ? call.size * width_ : 0),
        components_(layout_.components * 3 * lanes) {}

  void run(const PositionTile& tile) {
    if (call_.gradient) stage_cotangents(call_, tile, cotangent_.data);
    for (int p = 0; p < tile.count; p += width_) {
      const int count = tile.count - p < width_ ? tile.count - p : width_;
      const int64_t first = tile.first + p;
      load_panel(call_.parameters, 0, int(call_.size), first, count, parameters_.data, width_);
      load_panel(call_.x, 0, 3, first, count, colours_, width_);
      // Bytes are levels of 2/255.
      if (call_.x.first.type == Type::u8)
        for (int i = 0; i < 3 * width_; i += lanes)
          fma(N::load(colours_ + i), N(2.0 / 255), N(-1.0)).store(colours_ + i);
      for (int i = 0; i < count; i += lanes) call_.gradient ? pixels<true>(p, i) : pixels<false>(p, i);
      if (call_.gradient) store_panel(call_, 0, int(call_.size), first, count, gradient_.data, width_);
    }
    if (call_.value.data) deliver(call_, tile, value_.data);
  }

 private:
  static constexpr int lanes = N::lanes, kMostTogether = 64;

  // As many pixels as fit the cache, with their gradient.
  static int width_for(int64_t size) {
    int width = kMostTogether;
    while (width > lanes && size * width > 4096) width /= 2;
    return width;
  }

  // The pixels in the lanes of a register, from number `i` of a panel that begins with the tile's number `p`.
  template <bool gradients>
  AEVB_INLINE void pixels(int p, int i) {
    const auto parameter = [&](int64_t n) AEVB_INLINE_BODY { return N::load(parameters_.data + n * width_ + i); };
    const auto gradient = [&](int64_t n) AEVB_INLINE_BODY { return gradient_.data + n * width_ + i; };
    const auto colour = [&](int c) AEVB_INLINE_BODY { return N::load(colours_ + c * width_ + i); };
    const Pixel<N> x(colour(0), colour(1), colour(2));
    ExpSum<N> joint, prior;
    for (int64_t k = 0; k < layout_.components; ++k) {
      N mean[3], log_scale[3], z[3];
      for (int c = 0; c < 3; ++c) {
        mean[c] = parameter(layout_.mean(c, k));
        log_scale[c] = parameter(layout_.log_scale(c, k));
        z[c] = parameter(layout_.coefficient(c, k));
      }
      const LogisticComponent<N> component(x, mean, log_scale, z);
      const N logit = parameter(layout_.logit(k)), exponent = logit + component.exponent;
      prior.top = larger(prior.top, logit);
      joint.top = larger(joint.top, exponent);
      exponent.store(at(k, 0)), component.moderate.store(at(k, 1));
      if constexpr (gradients) {
        component.gradient(x, mean, log_scale, z);
        for (int c = 0; c < 3; ++c) {
          mean[c].store(gradient(layout_.mean(c, k)));
          log_scale[c].store(gradient(layout_.log_scale(c, k)));
          z[c].store(gradient(layout_.coefficient(c, k)));
        }
      }
    }
    for (int64_t k = 0; k < layout_.components; ++k) {
      const N e = exp(parameter(layout_.logit(k)) - prior.top);
      const N weight = exp(N::load(at(k, 0)) - joint.top) * N::load(at(k, 1));
      prior.total = prior.total + e;
      joint.total = joint.total + weight;
      if constexpr (gradients) e.store(at(k, 2)), weight.store(at(k, 1));
    }
    ((joint.top - prior.top) + log(joint.total / prior.total)).store(value_.data + p + i);
    if constexpr (!gradients) return;
    const N g = N::load(cotangent_.data + p + i), none(0.0);
    const N of_joint = select(joint.total == none, none, g / joint.total), of_prior = g / prior.total;
    for (int64_t k = 0; k < layout_.components; ++k) {
      const N responsibility = N::load(at(k, 1)) * of_joint;
      (responsibility - N::load(at(k, 2)) * of_prior).store(gradient(layout_.logit(k)));
      for (int64_t n = layout_.mean(0, k); n < call_.size; n += layout_.components) {
        T* const by = gradient(n);
        product(responsibility, N::load(by)).store(by);
      }
    }
  }
  T* at(int64_t k, int which) { return components_.data + (3 * k + which) * lanes; }

  const PositionCall& call_;
  const MixtureLayout layout_;
  const int width_;
  Panel<T> parameters_, gradient_, components_;
  alignas(64) T colours_[3 * kMostTogether] = {};
  PositionNumbers<T> value_, cotangent_;
};

}  // namespace aevb::AEVB_ISA
