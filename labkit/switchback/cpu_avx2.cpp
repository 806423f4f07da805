// The operations of reference.py for x86 processors with AVX2, such as any of the last ten years.
//
// Shapes: M rows (tokens), K inner dimension, N output features. Every product is A·Bᵀ with both
// operands int8 and the inner dimension contiguous.
//
// Bytes are widened to 16 bits, where VPMADDWD makes 16 products an instruction and adds them in
// pairs; no pair overflows, because 2 · 127² is far below 2³¹. With an addition for the sums that
// is twice what the same processor does in float32. (VPMADDUBSW takes bytes as they are, but wants
// the signs moved from one side to the other, and ends at the same number of instructions.)
// Processors with AVX-VNNI have one instruction for both, VPDPWSSD.
//
// A tile is 6 rows × 16 columns: 12 registers of sums, 2 of B, 1 of A, 1 of products. Its operands
// come from the first-level cache: a piece of B, 16 columns × 512 of k, is widened once for all rows
// of a chunk (as bytes it takes half the memory), and a chunk of A, 120 rows × 512 of k, is widened
// and ordered so that the 6 pairs which a step broadcasts lie together.
//
// Source: Goto and van de Geijn 2008, "Anatomy of High-Performance Matrix Multiplication", for the
// blocking; Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, VPMADDWD.

#include "cpu_avx2_pack.h"

#ifdef __AVXVNNI__
#define LABKIT_LIBRARY labkit_int8_avx_vnni
#else
#define LABKIT_LIBRARY labkit_int8_avx2
#endif

namespace {

constexpr int64_t ROWS = 6, COLUMNS = 16;  // of a tile
constexpr int64_t PIECE = 512;             // of the inner dimension at a time
constexpr int64_t CHUNK = 20 * ROWS;       // rows of A at a time, at most
constexpr int64_t GROUP = 512 / COLUMNS;   // strips of 16 columns for one ordering of A, at most

// sums [6, 16] += a · bᵀ over `pairs` of the inner dimension; a is [pairs, 6] and b [pairs, 16] of
// pairs. Sums have names, because the compiler keeps an array of them in memory, and a row is written
// in assembly, because it broadcasts several ahead and then has no registers left.
void tile(const int32_t* a, const int16_t* b, int64_t pairs, bool first, int32_t* sums) {
  __m256i* at = reinterpret_cast<__m256i*>(sums);
  const auto start = [&](int i) { return first ? _mm256_setzero_si256() : _mm256_load_si256(at + i); };
  __m256i s0 = start(0), s1 = start(1), s2 = start(2), s3 = start(3), s4 = start(4), s5 = start(5);
  __m256i s6 = start(6), s7 = start(7), s8 = start(8), s9 = start(9), s10 = start(10);
  __m256i s11 = start(11);
  for (int64_t k = 0; k < pairs; ++k, a += ROWS, b += 2 * COLUMNS) {
    const __m256i* right = reinterpret_cast<const __m256i*>(b);
    const __m256i low = _mm256_load_si256(right), high = _mm256_load_si256(right + 1);
    const auto row = [&](int r, __m256i& sum_low, __m256i& sum_high) {
      __m256i left, product;
      asm volatile(
          "vpbroadcastd %[a], %[left]\n\t"
#ifdef __AVXVNNI__
          "%{vex%} vpdpwssd %[low], %[left], %[sum_low]\n\t"
          "%{vex%} vpdpwssd %[high], %[left], %[sum_high]"
#else
          "vpmaddwd %[low], %[left], %[product]\n\t"
          "vpmaddwd %[high], %[left], %[left]\n\t"
          "vpaddd %[product], %[sum_low], %[sum_low]\n\t"
          "vpaddd %[left], %[sum_high], %[sum_high]"
#endif
          : [sum_low] "+x"(sum_low), [sum_high] "+x"(sum_high), [left] "=&x"(left),
            [product] "=&x"(product)
          : [a] "m"(a[r]), [low] "x"(low), [high] "x"(high));
    };
    row(0, s0, s1), row(1, s2, s3), row(2, s4, s5);
    row(3, s6, s7), row(4, s8, s9), row(5, s10, s11);
  }
  const __m256i all[2 * ROWS] = {s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11};
  for (int i = 0; i < 2 * ROWS; ++i) _mm256_store_si256(at + i, all[i]);
}

// Rows m0 … of a [M, K], k … k + depth, widened: blocks of [depth / 2, 6] pairs, zeros past the
// ends. Writes 2 pairs past the last one.
void widen_rows(const int8_t* a, int64_t M, int64_t K, int64_t m0, int64_t rows, int64_t k0,
                int64_t depth, int32_t* to) {
  for (int64_t m = m0; m < m0 + rows; m += ROWS)
    for (int64_t k = k0; k < k0 + depth; k += 16) {
      __m128i eight[8] = {};
      for (int64_t r = 0; r < ROWS; ++r)
        if (m + r < M) eight[r] = sixteen(a + (m + r) * K + k, K - k);
      transpose_8x8(eight);
      // Each store is 8 pairs wide; what is too much the next one writes over.
      for (int64_t i = 0; i < 8; ++i, to += ROWS)
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_cvtepi8_epi16(eight[i]));
    }
}

void widen_columns(const int8_t* panel, int64_t bytes, int16_t* to) {
  for (int64_t i = 0; i < bytes; i += 16)
    _mm256_store_si256(reinterpret_cast<__m256i*>(to + i), _mm256_cvtepi8_epi16(halves(panel + i)));
}

// What becomes of 8 sums of row m, columns n and on: written as they are, or scaled and rounded.
struct Raw {
  using Out = int32_t;
  void operator()(const int32_t* sums, int64_t, int64_t, int64_t count, int32_t* y) const {
    if (count > 0) std::memcpy(y, sums, std::min<int64_t>(8, count) * sizeof *y);
  }
};
template <typename T>
struct Scaled {
  using Out = T;
  const float *a_absmax, *b_absmax, *bias;
  bool per_row;  // one scale a row of B, or one for all of it
  void operator()(const int32_t* sums, int64_t m, int64_t n, int64_t count, T* y) const {
    if (count <= 0) return;
    const __m256 left = _mm256_set1_ps(a_absmax[m] * float(1.0 / (127 * 127)));
    const __m256 right = per_row ? load(b_absmax + n, count) : _mm256_set1_ps(*b_absmax);
    const __m256i whole = _mm256_load_si256(reinterpret_cast<const __m256i*>(sums));
    __m256 v = _mm256_mul_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(whole), left), right);
    if (bias) v = _mm256_add_ps(v, load(bias + n, count));
    store(y, v, count);
  }
};

// y [M, N] = finish(A · Bᵀ): A as it is, B in panels. There is one unit: no choice to make.
template <typename Finish>
void multiply(bool, const Tensor& a, const Tensor& panels, int64_t N, Tensor& y,
              const Finish& finish) {
  const int64_t M = a.size(0), K = a.size(1), deep = round_up(K, DEPTH);
  const int8_t *left = a.const_data_ptr<int8_t>(), *right = panels.const_data_ptr<int8_t>();
  auto* out = y.mutable_data_ptr<typename Finish::Out>();
  const int64_t chunks = (M + CHUNK - 1) / CHUNK, strips = (N + COLUMNS - 1) / COLUMNS;
  const int64_t chunk = round_up((M + chunks - 1) / chunks, ROWS);
  // Enough tasks for every thread; few rows are ordered again without regret.
  const int64_t wanted = std::max((strips + GROUP - 1) / GROUP, 2 * at::get_num_threads() / chunks);
  const int64_t group = (strips + wanted - 1) / wanted, groups = (strips + group - 1) / group;
  at::parallel_for(0, chunks * groups, 1, [&](int64_t begin, int64_t end) {
    alignas(64) int16_t columns[PIECE * COLUMNS];
    std::vector<int32_t> rows(chunk * PIECE / 2 + 8);
    std::vector<int32_t> memory(group * chunk * COLUMNS + 16);
    int32_t* sums = memory.data();
    while (reinterpret_cast<uintptr_t>(sums) % 64) ++sums;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t m0 = task / groups * chunk, h0 = task % groups * group;
      const int64_t h1 = std::min(strips, h0 + group);
      const int64_t blocks = (std::min(chunk, M - m0) + ROWS - 1) / ROWS;
      for (int64_t k = 0; k < deep; k += PIECE) {
        const int64_t depth = std::min(PIECE, deep - k);
        widen_rows(left, M, K, m0, blocks * ROWS, k, depth, rows.data());
        for (int64_t h = h0; h < h1; ++h) {
          widen_columns(right + (h * deep + k) * COLUMNS, depth * COLUMNS, columns);
          for (int64_t i = 0; i < blocks; ++i) {
            int32_t* at = sums + ((h - h0) * blocks + i) * ROWS * COLUMNS;
            tile(rows.data() + i * ROWS * depth / 2, columns, depth / 2, k == 0, at);
            if (k + depth < deep) continue;
            const int64_t m1 = m0 + i * ROWS, n = h * COLUMNS;
            for (int64_t m = m1; m < std::min(M, m1 + ROWS); ++m, at += COLUMNS)
              for (int64_t j = 0; j < COLUMNS; j += 8)
                finish(at + j, m, n + j, N - n - j, out + m * N + n + j);
          }
        }
      }
    }
  });
}

}  // namespace

#include "cpu_ops.h"
