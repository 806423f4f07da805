// What the sources for all processors share: types, sizes, and a few helpers.

#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>
#include <torch/library.h>

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <tuple>
#include <vector>

namespace {

using at::Tensor;

constexpr float TINY = 0x1p-100f;  // as in reference.py
constexpr int64_t BLOCK = 32;      // rows of A and columns of B that one block of sums takes
constexpr int64_t DEPTH = 64;      // of the inner dimension in one tile
constexpr int64_t COLUMN_PANELS = 4;  // packed together

int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

float at_least_tiny(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value < TINY ? TINY : value;
}

// Some thousand numbers make a task worth handing to another thread.
int64_t grain(int64_t width) { return std::max<int64_t>(1, 16384 / std::max<int64_t>(width, 1)); }

}  // namespace
