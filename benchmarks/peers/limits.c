/* What reading memory can deliver, asked again and again: on each line of stdin a number of threads and
 * of bytes; on a line of stdout GB/s, the median of five passes over a buffer of 1 GiB, far beyond any
 * cache.
 *
 * With 0 bytes each thread reads its own part by a plain loop. Else the buffer is read as a model's weights
 * are: in stages of so many bytes, of which each thread reads a part and then waits for the others, for a
 * stage needs what the one before has made; and asking ahead for what lies a page further, with the one of
 * two hints that is faster here: that it is read once, or once more from L2.
 *
 * gcc -O3 -march=native -fopenmp limits.c -o limits */
#include <omp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int64_t vec __attribute__((vector_size(64)));
enum { UNROLL = 4, STEP = UNROLL * sizeof(vec), PASSES = 5, PAGE = 4096 };
static const size_t BUFFER = 1ull << 30;

static volatile int64_t sink; /* sums go here so that no loop is optimised away */

enum hint { PLAIN, ONCE, FROM_L2 };

/* Four independent chains of xor, so that the loads and not the xors are the limit. `hint` is known when
 * this is compiled, so the plain loop has no trace of it. */
static inline __attribute__((always_inline)) int64_t read_once(const char *p, size_t bytes, enum hint hint) {
  vec a = {0}, b = {0}, c = {0}, d = {0};
  for (const char *end = p + bytes; p < end; p += STEP) {
    const vec *v = (const vec *)p;
    for (int i = 0; hint && i < UNROLL; i++) {
      const char *ahead = (const char *)(v + i) + PAGE;
      if (hint == ONCE) __builtin_prefetch(ahead, 0, 0);
      else __builtin_prefetch(ahead, 0, 2);
    }
    a ^= v[0]; b ^= v[1]; c ^= v[2]; d ^= v[3];
  }
  a ^= b ^ c ^ d;
  int64_t sum = 0;
  for (int i = 0; i < 8; i++) sum += a[i];
  return sum;
}

static double gb_per_second(const char *buffer, int threads, size_t stage, enum hint hint) {
  size_t part = (stage ? stage : BUFFER) / threads / STEP * STEP;
  size_t stages = stage ? BUFFER / stage : 1;
  int64_t total = 0;
  int arrived = 0;
  double start = omp_get_wtime();
  #pragma omp parallel num_threads(threads) reduction(+ : total) shared(arrived)
  {
    const char *own = buffer + omp_get_thread_num() * part;
    if (!stage) total += read_once(own, part, PLAIN);
    for (size_t i = 0; stage && i < stages; i++) {
      const char *next = own + i * threads * part;
      total += hint == ONCE ? read_once(next, part, ONCE) : read_once(next, part, FROM_L2);
      /* OpenMP's own barrier may put threads to sleep; a stage is over in some 50 us. */
      __atomic_add_fetch(&arrived, 1, __ATOMIC_ACQ_REL);
      while (__atomic_load_n(&arrived, __ATOMIC_ACQUIRE) < (int)(i + 1) * threads) {}
    }
  }
  sink = total;
  return (double)part * threads * stages / (omp_get_wtime() - start) / 1e9;
}

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* The median of PASSES. */
static double typical(const char *buffer, int threads, size_t stage, enum hint hint) {
  double values[PASSES];
  gb_per_second(buffer, threads, stage, hint); /* wakes the threads */
  for (int i = 0; i < PASSES; i++) values[i] = gb_per_second(buffer, threads, stage, hint);
  qsort(values, PASSES, sizeof *values, by_value);
  return values[PASSES / 2];
}

int main(void) {
  char *buffer = aligned_alloc(2 << 20, BUFFER);
  if (!buffer) { fprintf(stderr, "limits: cannot allocate 1 GiB\n"); return 1; }
  memset(buffer, 1, BUFFER);
  int threads;
  size_t stage;
  while (scanf("%d %zu", &threads, &stage) == 2 && threads > 0 && stage <= BUFFER) {
    double best = typical(buffer, threads, stage, stage ? ONCE : PLAIN);
    double other = stage ? typical(buffer, threads, stage, FROM_L2) : 0;
    printf("%.2f\n", best > other ? best : other);
    fflush(stdout);
  }
  return 0;
}
