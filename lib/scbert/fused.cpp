// The attention of blocks.py on a CPU with AVX-512, in one pass: products with the projection, exponentials and products with
// the values of 64 tokens of a head while all of it is in the second cache. attention.py has the same in PyTorch, and the names.
//
// Matrices are of 32-bit words: a word is one float, or (BF) two bf16 that follow each other along the dimension that is summed.
// So all products are one function: out (rows, n) = a (rows, words) · b (words, n), n a multiple of 16.
#include <immintrin.h>
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr int T = 64;  // tokens of a tile
constexpr float LOG2E = 1.44269504088896f;
using Word = uint32_t;

template <bool BF> inline __m512 multiply(__m512 sum, Word a, const Word* b) {
#ifdef __AVX512BF16__
  if constexpr (BF) return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_set1_epi32(a), (__m512bh)_mm512_loadu_si512(b));
#endif
  return _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_set1_epi32(a)), _mm512_loadu_ps((const float*)b), sum);
}

template <bool BF, int COLUMNS>
inline void product_block(const Word* a, int a_row, const Word* b, int b_row, float* out, int out_row, int words, bool add) {
  __m512 sum[8][COLUMNS];
  for (int i = 0; i < 8; i++)
    for (int j = 0; j < COLUMNS; j++) sum[i][j] = add ? _mm512_loadu_ps(out + i * out_row + 16 * j) : _mm512_setzero_ps();
  for (int k = 0; k < words; k++)
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
#pragma GCC unroll 3
      for (int j = 0; j < COLUMNS; j++) sum[i][j] = multiply<BF>(sum[i][j], a[i * a_row + k], b + k * b_row + 16 * j);
  for (int i = 0; i < 8; i++)
    for (int j = 0; j < COLUMNS; j++) _mm512_storeu_ps(out + i * out_row + 16 * j, sum[i][j]);
}

// out (rows, n) = a · b, or added to it; rows a multiple of 8.
template <bool BF>
void product(const Word* a, int a_row, const Word* b, int b_row, float* out, int out_row, int rows, int n, int words, bool add) {
  for (int j = 0; j < n;) {
    int left = (n - j) / 16, columns = left == 4 ? 2 : std::min(left, 3);
    for (int i = 0; i < rows; i += 8) {
      auto at = [&](auto block) { block(a + i * a_row, a_row, b + j, b_row, out + i * out_row + j, out_row, words, add); };
      if (columns == 3) at(product_block<BF, 3>);
      else if (columns == 2) at(product_block<BF, 2>);
      else at(product_block<BF, 1>);
    }
    j += 16 * columns;
  }
}

inline __m512 exp2(__m512 x) {  // to 2e-7
  __m512 whole = _mm512_roundscale_ps(x, 8), f = _mm512_sub_ps(x, whole), y = _mm512_set1_ps(1.54035304e-4f);
  for (float c : {1.33335581e-3f, 9.61812911e-3f, 5.55041087e-2f, 2.40226507e-1f, 6.93147181e-1f, 1.0f})
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(c));
  return _mm512_scalef_ps(y, whole);
}

inline __m512i rounded(__m512 x) {  // to bf16, half of the last place upwards, in the upper half of each word
  return _mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(0x8000));
}

inline __m512i two(__m512 low, __m512 high) {  // a word of two bf16, 16 times
  return _mm512_or_si512(_mm512_srli_epi32(rounded(low), 16), _mm512_and_si512(rounded(high), _mm512_set1_epi32(0xffff0000)));
}

// Floats (rows, n) to words along the row, for a matrix a.
template <bool BF> void along(const float* x, Word* to, int rows, int n) {
  if constexpr (!BF) {
    std::memcpy(to, x, 4 * rows * n);
    return;
  }
  for (int i = 0; i < rows * n; i += 16)
    _mm256_storeu_si256((__m256i*)(to + i / 2), _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded(_mm512_loadu_ps(x + i)), 16)));
}

// Floats (rows, n) to words (rows or half of them, n), for a matrix b.
template <bool BF> void across(const float* x, Word* to, int rows, int n) {
  if constexpr (!BF) {
    std::memcpy(to, x, 4 * rows * n);
    return;
  }
  for (int i = 0; i < rows; i += 2)
    for (int j = 0; j < n; j += 16)
      _mm512_storeu_si512(to + i / 2 * n + j, two(_mm512_loadu_ps(x + i * n + j), _mm512_loadu_ps(x + (i + 1) * n + j)));
}

// Floats (rows, n) to words (n, rows or half of them), for the transposed as a matrix a.
template <bool BF> void turned(const float* x, Word* to, int rows, int n) {
  for (int i = 0; i < rows; i += BF ? 2 : 1)
    for (int j = 0; j < n; j++) {
      Word low, high = 0;
      std::memcpy(&low, x + i * n + j, 4);
      if (BF) std::memcpy(&high, x + (i + 1) * n + j, 4);
      to[j * (BF ? rows / 2 : rows) + (BF ? i / 2 : i)] = BF ? (low + 0x8000) >> 16 | ((high + 0x8000) & 0xffff0000) : low;
    }
}

template <bool BF> void load(const void* from, int64_t at, float* to, int d) {
  for (int j = 0; j < d; j += 16)
    _mm512_storeu_ps(to + j, BF ? _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(
                                      (const __m256i*)((const uint16_t*)from + at + j))), 16))
                                : _mm512_loadu_ps((const float*)from + at + j));
}

template <bool BF> void save(const float* from, void* to, int64_t at, int d) {
  if constexpr (BF) along<true>(from, (Word*)((uint16_t*)to + at), 1, d);
  else std::memcpy((float*)to + at, from, 4 * d);
}

inline float dot(const float* a, const float* b, int n) {
  __m512 sum = _mm512_setzero_ps();
  for (int j = 0; j < n; j += 16) sum = _mm512_fmadd_ps(_mm512_loadu_ps(a + j), _mm512_loadu_ps(b + j), sum);
  return _mm512_reduce_add_ps(sum);
}

}  // namespace

// Sizes, and the projection as matrices b: (d, m) with log2(e) / d^¼, (m, d) with 1 / d^¼; d and m multiples of 16, of whose
// features `count` count.
struct Shape {
  int64_t tokens, heads, d, m, count;
  float scale, bound;
  const Word *columns, *rows;
};

// One head's matrix (65, m) as matrices b, (m, d) and (d, m), and its last row.
struct Packed {
  const Word *down, *up;
  const float* last;
};

namespace {

template <bool BF> struct Tile {
  const Shape& s;
  int P = BF ? 2 : 1, n = 0;
  std::vector<float> x, y, exp, gradient, small, factor, last;
  std::vector<Word> words, exp_words, turned_words;
  explicit Tile(const Shape& s)
      : s(s), x(T * s.d), y(T * s.d), exp(T * s.m), gradient(T * s.m), small(T * s.d), factor(T), last(T), words(T * s.d),
        exp_words(T * s.m), turned_words(T * s.d) {}

  int64_t place(int64_t begin, int t, int64_t head) const { return ((begin + t) * s.heads + head) * s.d; }

  void read(const void* from, std::vector<float>& to, int64_t begin, int64_t head) {
    n = std::min<int64_t>(T, s.tokens - begin);
    for (int t = 0; t < n; t++) load<BF>(from, place(begin, t, head), &to[t * s.d], s.d);
    std::fill(to.begin() + n * s.d, to.end(), 0.0f);
  }

  // exp(P x − |x|²/2 − bound) of keys, exp(P x − its maximum) of queries with factor = exp(−|x|²/2); P x's maximum of counted keys
  float features(bool keys, const float* counts) {
    along<BF>(x.data(), words.data(), T, s.d);
    product<BF>(words.data(), s.d / P, s.columns, s.m, exp.data(), s.m, T, s.m, s.d / P, false);
    __m512 largest = _mm512_set1_ps(-1e30f), padding = _mm512_set1_ps(-1e30f);
    __mmask16 real = (1u << (16 - (s.m - s.count))) - 1;
    for (int t = 0; t < n; t++) {
      float* row = &exp[t * s.m];
      _mm512_storeu_ps(row + s.m - 16, _mm512_mask_blend_ps(real, padding, _mm512_loadu_ps(row + s.m - 16)));
      __m512 top = padding;
      for (int j = 0; j < s.m; j += 16) top = _mm512_max_ps(top, _mm512_loadu_ps(row + j));
      float log = -0.5f * s.scale * s.scale * LOG2E * dot(&x[t * s.d], &x[t * s.d], s.d);
      if (!keys || !counts || counts[t] > 0) largest = _mm512_max_ps(largest, top);
      __m512 shift = _mm512_set1_ps(keys ? log - s.bound * LOG2E : -_mm512_reduce_max_ps(top));
      factor[t] = _mm512_cvtss_f32(exp2(_mm512_set1_ps(log)));
      for (int j = 0; j < s.m; j += 16) _mm512_storeu_ps(row + j, exp2(_mm512_add_ps(_mm512_loadu_ps(row + j), shift)));
    }
    std::fill(exp.begin() + n * s.m, exp.end(), 0.0f);
    return _mm512_reduce_max_ps(largest) / LOG2E;
  }

  // small (T, d) = a (T, m) · down, last = a · the last row
  void answers(const std::vector<float>& a, const Packed& b) {
    along<BF>(a.data(), exp_words.data(), T, s.m);
    product<BF>(exp_words.data(), s.m / P, b.down, s.d, small.data(), s.d, T, s.d, s.m / P, false);
    for (int t = 0; t < n; t++) last[t] = dot(&a[t * s.m], b.last, s.m);
  }

  // total (65, m) += [values, ones]ᵀ · exp
  void gather(const std::vector<float>& values, const float* ones, float* total) {
    turned<BF>(values.data(), turned_words.data(), T, s.d);
    across<BF>(exp.data(), exp_words.data(), T, s.m);
    product<BF>(turned_words.data(), T / P, exp_words.data(), s.m, total, s.m, s.d, s.m, T / P, true);
    float* sums = total + s.d * s.m;
    for (int j = 0; j < s.m; j += 16) {
      __m512 sum = _mm512_loadu_ps(sums + j);
      for (int t = 0; t < n; t++) sum = _mm512_fmadd_ps(_mm512_set1_ps(ones[t]), _mm512_loadu_ps(&exp[t * s.m + j]), sum);
      _mm512_storeu_ps(sums + j, sum);
    }
  }

  // small = gradient of x, from [values, ones] (T, d + 1), the gradients of what exp was multiplied with
  void back(const std::vector<float>& values, const float* ones, const float* sums, const Packed& b) {
    along<BF>(values.data(), words.data(), T, s.d);
    product<BF>(words.data(), s.d / P, b.up, s.m, gradient.data(), s.m, T, s.m, s.d / P, false);
    for (int t = 0; t < T; t++)
      for (int j = 0; j < s.m; j += 16) {
        __m512 g = _mm512_loadu_ps(&gradient[t * s.m + j]);
        g = _mm512_fmadd_ps(_mm512_set1_ps(t < n ? ones[t] : 0), _mm512_loadu_ps(b.last + j), g);
        _mm512_storeu_ps(&gradient[t * s.m + j], _mm512_mul_ps(g, _mm512_loadu_ps(&exp[t * s.m + j])));
      }
    along<BF>(gradient.data(), exp_words.data(), T, s.m);
    product<BF>(exp_words.data(), s.m / P, s.rows, s.d, small.data(), s.d, T, s.d, s.m / P, false);
    for (int t = 0; t < n; t++)
      for (int j = 0; j < s.d; j++) small[t * s.d + j] -= s.scale * s.scale * sums[t] * x[t * s.d + j];
  }

  void write(const std::vector<float>& from, void* to, int64_t begin, int64_t head) const {
    for (int t = 0; t < n; t++) save<BF>(&from[t * s.d], to, place(begin, t, head), s.d);
  }
};

template <bool BF> Packed packed(const Shape& s, const void* both, const float* last, int64_t head) {
  const int64_t size = s.m * s.d / (BF ? 2 : 1);
  const Word* at = (const Word*)both + head * size;
  return {at, at + s.heads * size, last + head * s.m};
}

template <bool BF>
void keys(const Shape& s, const void* k, const void* v, const float* counts, float* total, float* largest, int threads) {
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t head = 0; head < s.heads; head++) {
    Tile<BF> tile(s);
    std::vector<float> ones(T, 1.0f);
    for (int64_t begin = 0; begin < s.tokens; begin += T) {
      tile.read(k, tile.x, begin, head);
      largest[head] = std::max(largest[head], tile.features(true, counts ? counts + begin : nullptr));
      tile.read(v, tile.y, begin, head);
      for (int t = 0; counts && t < tile.n; t++) {
        ones[t] = counts[begin + t];
        for (int j = 0; j < s.d; j++) tile.y[t * s.d + j] *= ones[t];
      }
      tile.gather(tile.y, ones.data(), total + head * (s.d + 1) * s.m);
    }
  }
}

template <bool BF>
void queries(const Shape& s, const void* q, const void* both, const float* last, const float* floor, void* out, int threads) {
  const int64_t tiles = (s.tokens + T - 1) / T;
#pragma omp parallel num_threads(threads)
  {
    Tile<BF> tile(s);
#pragma omp for schedule(dynamic, 4)
    for (int64_t i = 0; i < tiles * s.heads; i++) {
      const int64_t head = i / tiles, begin = i % tiles * T;
      const float* low = floor + head * (s.d + 1);
      tile.read(q, tile.x, begin, head);
      tile.features(false, nullptr);
      tile.answers(tile.exp, packed<BF>(s, both, last, head));
      for (int t = 0; t < tile.n; t++) {
        const float f = tile.factor[t], rate = 1 / (tile.last[t] * f + low[s.d]);
        for (int j = 0; j < s.d; j++) tile.small[t * s.d + j] = (tile.small[t * s.d + j] * f + low[j]) * rate;
      }
      tile.write(tile.small, out, begin, head);
    }
  }
}

template <bool BF>
void queries_back(const Shape& s, const void* q, const void* grad, const void* both, const float* last, const float* floor,
                  float* grad_context, float* grad_floor, void* grad_q, int threads) {
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t head = 0; head < s.heads; head++) {
    Tile<BF> tile(s);
    std::vector<float> ones(T), sums(T);
    const float* low = floor + head * (s.d + 1);
    float* low_grad = grad_floor + head * (s.d + 1);
    const Packed context = packed<BF>(s, both, last, head);
    for (int64_t begin = 0; begin < s.tokens; begin += T) {
      tile.read(q, tile.x, begin, head);
      tile.features(false, nullptr);
      tile.answers(tile.exp, context);
      tile.read(grad, tile.y, begin, head);
      for (int t = 0; t < tile.n; t++) {
        const float f = tile.factor[t], rate = 1 / (tile.last[t] * f + low[s.d]);
        float *g = &tile.y[t * s.d], *raw = &tile.small[t * s.d], along = 0, sum = 0;
        for (int j = 0; j < s.d; j++) {
          g[j] *= rate;
          along -= g[j] * (raw[j] * f + low[j]) * rate;
          low_grad[j] += g[j];
          g[j] *= f;
          sum += g[j] * raw[j];
        }
        low_grad[s.d] += along;
        ones[t] = along * f;
        sums[t] = sum + ones[t] * tile.last[t];
      }
      tile.gather(tile.y, ones.data(), grad_context + head * (s.d + 1) * s.m);
      tile.back(tile.y, ones.data(), sums.data(), context);
      tile.write(tile.small, grad_q, begin, head);
    }
  }
}

template <bool BF>
void keys_back(const Shape& s, const void* k, const void* v, const float* counts, const void* both, const float* last,
               const float* grad_values, void* grad_k, void* grad_v, int threads) {
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t head = 0; head < s.heads; head++) {
    Tile<BF> tile(s);
    std::vector<float> ones(T, 1.0f), sums(T);
    const Packed total = packed<BF>(s, both, last, head);
    for (int64_t begin = 0; begin < s.tokens; begin += T) {
      tile.read(k, tile.x, begin, head);
      tile.features(true, counts ? counts + begin : nullptr);
      tile.answers(tile.exp, total);
      tile.read(v, tile.y, begin, head);
      for (int t = 0; t < tile.n; t++) {
        ones[t] = counts ? counts[begin + t] : 1.0f;
        float *y = &tile.y[t * s.d], *raw = &tile.small[t * s.d];
        for (int j = 0; j < s.d; j++) y[j] *= ones[t];
        sums[t] = dot(y, raw, s.d) + ones[t] * tile.last[t];
        for (int j = 0; j < s.d; j++) raw[j] = (raw[j] + grad_values[head * s.d + j]) * ones[t];
      }
      tile.write(tile.small, grad_v, begin, head);
      tile.back(tile.y, ones.data(), sums.data(), total);
      tile.write(tile.small, grad_k, begin, head);
    }
  }
}

template <bool BF> void pack(const float* from, Word* to, int64_t many, int rows, int n) {
  for (int64_t i = 0; i < many; i++) across<BF>(from + i * rows * n, to + i * rows * n / (BF ? 2 : 1), rows, n);
}

}  // namespace

#ifndef __AVX512BF16__
#define EITHER(name, ...) (bf ? void() : name<false>(__VA_ARGS__))
#else
#define EITHER(name, ...) (bf ? name<true>(__VA_ARGS__) : name<false>(__VA_ARGS__))
#endif

extern "C" {
int has_bf16() {
#ifdef __AVX512BF16__
  return 1;
#else
  return 0;
#endif
}
void pack_matrices(int bf, const float* from, Word* to, int64_t many, int rows, int n) { EITHER(pack, from, to, many, rows, n); }
void tell_keys(int bf, int threads, const Shape* s, const void* k, const void* v, const float* counts, float* total, float* top) {
  EITHER(keys, *s, k, v, counts, total, top, threads);
}
void ask_queries(int bf, int threads, const Shape* s, const void* q, const void* both, const float* last, const float* floor,
                 void* out) {
  EITHER(queries, *s, q, both, last, floor, out, threads);
}
void ask_queries_back(int bf, int threads, const Shape* s, const void* q, const void* grad, const void* both, const float* last,
                      const float* floor, float* grad_context, float* grad_floor, void* grad_q) {
  EITHER(queries_back, *s, q, grad, both, last, floor, grad_context, grad_floor, grad_q, threads);
}
void tell_keys_back(int bf, int threads, const Shape* s, const void* k, const void* v, const float* counts, const void* both,
                    const float* last, const float* grad_values, void* grad_k, void* grad_v) {
  EITHER(keys_back, *s, k, v, counts, both, last, grad_values, grad_k, grad_v, threads);
}
}
