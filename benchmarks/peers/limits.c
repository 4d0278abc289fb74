/* What reading memory can deliver, asked again and again: a number of threads on each line of stdin,
 * GB/s on a line of stdout. Each thread reads its own part of a buffer of 1 GiB, far beyond any cache;
 * the answer is the median of five passes.
 *
 * gcc -O3 -march=native -fopenmp limits.c -o limits */
#include <omp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int64_t vec __attribute__((vector_size(64)));
enum { UNROLL = 4, STEP = UNROLL * sizeof(vec), PASSES = 5 };
static const size_t BUFFER = 1ull << 30;

static volatile int64_t sink; /* sums go here so that no loop is optimised away */

/* Four independent chains of xor, so that the loads and not the xors are the limit. */
static int64_t read_once(const char *p, size_t bytes) {
  vec a = {0}, b = {0}, c = {0}, d = {0};
  for (const char *end = p + bytes; p < end; p += STEP) {
    const vec *v = (const vec *)p;
    a ^= v[0]; b ^= v[1]; c ^= v[2]; d ^= v[3];
  }
  a ^= b ^ c ^ d;
  int64_t sum = 0;
  for (int i = 0; i < 8; i++) sum += a[i];
  return sum;
}

static double gb_per_second(const char *buffer, int threads) {
  size_t part = BUFFER / threads / STEP * STEP;
  int64_t total = 0;
  double start = omp_get_wtime();
  #pragma omp parallel num_threads(threads) reduction(+ : total)
  total += read_once(buffer + omp_get_thread_num() * part, part);
  sink = total;
  return (double)part * threads / (omp_get_wtime() - start) / 1e9;
}

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

int main(void) {
  char *buffer = aligned_alloc(2 << 20, BUFFER);
  if (!buffer) { fprintf(stderr, "limits: cannot allocate 1 GiB\n"); return 1; }
  memset(buffer, 1, BUFFER);
  int threads;
  while (scanf("%d", &threads) == 1 && threads > 0) {
    double values[PASSES];
    gb_per_second(buffer, threads); /* wakes the threads */
    for (int i = 0; i < PASSES; i++) values[i] = gb_per_second(buffer, threads);
    qsort(values, PASSES, sizeof *values, by_value);
    printf("%.2f\n", values[PASSES / 2]);
    fflush(stdout);
  }
  return 0;
}
