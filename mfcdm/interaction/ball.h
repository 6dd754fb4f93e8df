/* What ball.c is built from: the arguments, registers and their exponential, batches of near columns, and the sums over
 * a batch. See there for the mathematics.
 */
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if PRECISION == 32
typedef float real;
typedef uint32_t bits;
enum { MANTISSA = 23, BIAS = 127, DEGREE = 7 };
#define LOG2_HIGH (2839.0 / 4096)
#define LOG2_LOW 3.19461849453094172321e-5
#define EXPORT(name) name##_32
#define EPSILON FLT_EPSILON
#define SMALLEST_NORMALISER (FLT_MIN / FLT_EPSILON)
#else
typedef double real;
typedef uint64_t bits;
enum { MANTISSA = 52, BIAS = 1023, DEGREE = 13 };
#define LOG2_HIGH (2977044472.0 / 4294967296)
#define LOG2_LOW -4.20091507268108472918e-11
#define EXPORT(name) name##_64
#define EPSILON DBL_EPSILON
#define SMALLEST_NORMALISER (DBL_MIN / DBL_EPSILON)
#endif

#if defined(__AVX512F__)
enum { VECTOR_BYTES = 64 };
#elif defined(__AVX__)
enum { VECTOR_BYTES = 32 };
#else
enum { VECTOR_BYTES = 16 };
#endif

enum {
    TILE = 32,                                        /* points of a tile, as in geometry.py */
    LANES = VECTOR_BYTES / (PRECISION / 8),           /* rows of a group */
    SPACE = 3,                                        /* coordinates; those beyond D are 0 */
    UNIT = 4,                                         /* channels are filled up with 0 to a multiple of it */
    ABREAST = 8,                                      /* registers that accumulate at once: hides the latency */
    BATCH = 96,                                       /* columns of a batch: its arrays stay in the first cache */
    KERNEL_EXPONENT = 60,                             /* KERNEL_SCALE = 2^60 of reference.py */
};
typedef real vec __attribute__((vector_size(VECTOR_BYTES)));
typedef bits mask __attribute__((vector_size(VECTOR_BYTES)));
#define INLINE static inline __attribute__((always_inline))

typedef struct {
    real *data; /* NULL: not wanted */
    int64_t strides[4];
} array; /* (B, H, N, C), or (B, 1, N, D) for positions */

typedef struct {
    int64_t num_rows, num_tiles; /* of one cloud */
    const int64_t *order;        /* row at each sorted position (B, N) */
    const int64_t *lengths;      /* points of each cloud (B,) */
    array points;
    const int64_t *offsets, *near; /* near tiles of the other side, as compressed rows */
} side;

typedef struct {
    int64_t num_clouds, num_heads, num_channels, dim, num_threads;
    int64_t kernel, self_interaction; /* booleans */
    double unit, squared_radius;      /* coordinates are multiplied by unit; R^2 is in that unit */
    const real *kappa;                /* (H,) */
    side queries, sources;
    array v, out, g;      /* values, averages, gradient of the averages */
    real *inverse_z;      /* (B, H, N): 1 / Z, 0 where nobody is near */
    array dx, dy, dv;     /* gradients, written where wanted; for a self-interaction dy is that of x */
    real *dkappa;         /* (H,), likewise */
} problem;

/* One side in tile order. Slot s of tile t of the batch is t TILE + s; a slot without a point holds 0. */
typedef struct {
    const side *side;
    int64_t num_slots, stride; /* of the features: H padded channels */
    real *points;   /* (SPACE, slots), times unit */
    real *features; /* (slots, H, padded channels): v_j of a source, ghat_i of a query */
    real *pairing;  /* (slots, H): s_i of a query; NULL for a source */
} layout;

typedef struct {
    int num_rows;
    vec x[SPACE];
    mask outside;                 /* lanes without a point */
    real low[SPACE], high[SPACE]; /* bounding box */
} group;

typedef struct {
    int size;
    int64_t slot[BATCH], offset[BATCH + ABREAST]; /* columns, and where their features begin */
    real y[SPACE][BATCH];          /* coordinates */
    vec u[BATCH], cut[BATCH];      /* u_ij and (1 - u_ij)^2 */
    vec w[BATCH], s[BATCH + ABREAST];
    vec sum_s[BATCH], sum_kappa_s[BATCH]; /* sum_h S exp(-kappa u), sum_h kappa_h S exp(-kappa u) */
} batch;

static int64_t padded_channels(const problem *p) { return (p->num_channels + UNIT - 1) / UNIT * UNIT; }

INLINE real *row_of(const array *a, int64_t b, int64_t h, int64_t i)
{
    return a->data + b * a->strides[0] + h * a->strides[1] + i * a->strides[2];
}

INLINE vec choose(mask m, vec yes, vec no) { return (vec)((m & (mask)yes) | (~m & (mask)no)); }

/* exp(z) 2^shift for z <= 0, to about one unit in the last place; exactly 0 below twice the smallest normal number;
 * NaN for NaN. z = n log(2) + r with n an integer and |r| <= log(2)/2: exp(r) is its Taylor series, 2^n is written into
 * the bits of an exponent, and log(2) = LOG2_HIGH + LOG2_LOW, where n LOG2_HIGH is exact. */
INLINE vec exp_shifted(vec z, int shift)
{
    static const real inverse_factorial[] = {
        1.0, 1.0, 1.0 / 2, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040, 1.0 / 40320, 1.0 / 362880,
        1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800};
    const real magic = (real)((bits)3 << (MANTISSA - 1)); /* 1.5 2^MANTISSA: its unit in the last place is 1 */
    vec shifted = z * (real)1.44269504088896340736 + magic, n = shifted - magic;
    vec r = (z - n * (real)LOG2_HIGH) - n * (real)LOG2_LOW, e = (vec){0} + inverse_factorial[DEGREE];
#pragma GCC unroll 16
    for (int k = DEGREE - 1; k >= 0; k--) e = e * r + inverse_factorial[k];
    e *= (vec)(((mask)shifted << MANTISSA) + ((bits)(BIAS + shift) << MANTISSA));
    return (vec)((mask)e & ~(mask)(n < (real)(2 - BIAS - shift)));
}

/* Number of points in a tile. */
INLINE int points_in(const side *side, int64_t tile)
{
    int64_t count = side->lengths[tile / side->num_tiles] - tile % side->num_tiles * TILE;
    return count < 0 ? 0 : count > TILE ? TILE : (int)count;
}

static group group_of(const layout *rows, int64_t slot, int num_rows)
{
    group group = {.num_rows = num_rows};
    int diverged = 0;
    for (int d = 0; d < SPACE; d++) {
        const real *x = rows->points + d * rows->num_slots + slot;
        group.low[d] = INFINITY, group.high[d] = -INFINITY;
        for (int lane = 0; lane < num_rows; lane++) {
            if (x[lane] < group.low[d]) group.low[d] = x[lane];
            if (x[lane] > group.high[d]) group.high[d] = x[lane];
            diverged |= x[lane] != x[lane];
        }
        memcpy(&group.x[d], x, sizeof(vec));
    }
    for (int d = 0; d < SPACE && diverged; d++) /* NaN is near everybody, and so stays visible */
        group.low[d] = -INFINITY, group.high[d] = INFINITY;
    for (int lane = num_rows; lane < LANES; lane++) group.outside[lane] = ~(bits)0;
    return group;
}

/* Append the columns of a tile that are within the radius of the group's box; those with NaN count as near. */
INLINE int append_near(int64_t *slot, const group *group, const layout *columns, int64_t tile, real limit)
{
    real far[TILE];
    for (int part = 0; part < TILE; part += LANES) {
        vec distance = {0};
        for (int d = 0; d < SPACE; d++) {
            vec y, gap, other;
            memcpy(&y, columns->points + d * columns->num_slots + tile * TILE + part, sizeof(vec));
            gap = group->low[d] - y, other = y - group->high[d];
            gap = choose((mask)(other > gap), other, gap);
            gap = choose((mask)(gap < 0), (vec){0}, gap);
            distance += gap * gap;
        }
        memcpy(far + part, &distance, sizeof(vec));
    }
    int count = points_in(columns->side, tile), size = 0;
    for (int s = 0; s < count; s++) {
        slot[size] = tile * TILE + s;
        size += !(far[s] >= limit);
    }
    return size;
}

/* Keep the columns of a batch that are within the radius of a row, here with one column a lane; NaN counts as near. */
static void discard_far(batch *batch, const group *group, const layout *columns, real limit)
{
    const int size = batch->size;
    mask far[BATCH / LANES];
    for (int k = 0; k < size; k++)
        for (int d = 0; d < SPACE; d++) batch->y[d][k] = columns->points[d * columns->num_slots + batch->slot[k]];
    for (int part = 0; part * LANES < size; part++) {
        vec y[SPACE];
        far[part] = ~(mask){0};
        for (int d = 0; d < SPACE; d++) memcpy(&y[d], batch->y[d] + part * LANES, sizeof(vec));
        for (int lane = 0; lane < group->num_rows; lane++) {
            vec distance = {0};
            for (int d = 0; d < SPACE; d++) distance += (group->x[d][lane] - y[d]) * (group->x[d][lane] - y[d]);
            far[part] &= (mask)(distance >= limit);
        }
    }
    batch->size = 0;
    for (int k = 0; k < size; k++) {
        const int kept = batch->size;
        batch->slot[kept] = batch->slot[k];
        for (int d = 0; d < SPACE; d++) batch->y[d][kept] = batch->y[d][k];
        batch->size += !((const bits *)far)[k];
    }
}

/* u_ij and the cut-off of a batch. Lanes without a point get u = 1, so w = 0. */
INLINE void measure(batch *batch, const group *group, const layout *columns, real inverse_squared_radius)
{
    for (int k = 0; k < batch->size; k++) {
        vec u = {0}, one = (vec){0} + 1;
        for (int d = 0; d < SPACE; d++) u += (group->x[d] - batch->y[d][k]) * (group->x[d] - batch->y[d][k]);
        u *= inverse_squared_radius;
        u = choose((mask)(u >= 1) | group->outside, one, u);
        batch->u[k] = u, batch->cut[k] = (1 - u) * (1 - u);
        batch->offset[k] = batch->slot[k] * columns->stride;
    }
    for (int i = 0; i < ABREAST; i++) batch->offset[batch->size + i] = batch->offset[batch->size - 1];
}

/* sum[c] += sum_k w_k b_kc for some channels. The partial sum of a batch starts at 0: sums of many terms stay exact. */
INLINE void carry_some(vec *sum, const batch *batch, const real *features, const int num)
{
    vec partial[ABREAST + UNIT];
#pragma GCC unroll 16
    for (int c = 0; c < num; c++) partial[c] = (vec){0};
    for (int k = 0; k < batch->size; k++) {
        const real *b = features + batch->offset[k];
#pragma GCC unroll 16
        for (int c = 0; c < num; c++) partial[c] += batch->w[k] * b[c];
    }
#pragma GCC unroll 16
    for (int c = 0; c < num; c++) sum[c] += partial[c];
}

/* Not inlined, so that the compiler keeps one pointer for all channels. */
#define CARRY(num)                                                                                         \
    static __attribute__((noinline)) void carry_##num(vec *sum, const batch *batch, const real *features) \
    {                                                                                                      \
        carry_some(sum, batch, features, num);                                                             \
    }
CARRY(4)
CARRY(8)
CARRY(12)

static void carry(vec *sum, const batch *batch, const real *features, int64_t num_channels)
{
    int num; /* 12, 8 or 4 at once; 4 alone cannot hide the latency, so only where there are no more */
    for (int64_t c = 0; c < num_channels; c += num) {
        const int64_t left = num_channels - c;
        num = left % ABREAST && left > ABREAST ? 12 : left >= ABREAST ? 8 : 4;
        (num == 12 ? carry_12 : num == 8 ? carry_8 : carry_4)(sum + c, batch, features + c);
    }
}

/* s_k += a . b_k over the channels. */
static void multiply(batch *batch, const vec *a, const real *features, int64_t num_channels)
{
    for (int k = 0; k < batch->size; k += ABREAST) {
        vec s[ABREAST];
        const real *b[ABREAST];
#pragma GCC unroll 16
        for (int i = 0; i < ABREAST; i++) s[i] = batch->s[k + i], b[i] = features + batch->offset[k + i];
        for (int64_t c = 0; c < num_channels; c++)
#pragma GCC unroll 16
            for (int i = 0; i < ABREAST; i++) s[i] += a[c] * b[i][c];
#pragma GCC unroll 16
        for (int i = 0; i < ABREAST; i++) batch->s[k + i] = s[i];
    }
}

/* Collect the next columns near a group of rows, at most BATCH; 0 when there are no more. *at walks the near list. */
static int next_batch(batch *batch, const problem *p, const group *group, const layout *rows, const layout *columns,
                      int64_t tile, int64_t *at)
{
    const real limit = (real)p->squared_radius * (1 + 16 * EPSILON); /* no column is lost to rounding */
    const int64_t end = rows->side->offsets[tile + 1];
    batch->size = 0;
    while (*at < end && !batch->size) {
        while (*at < end && batch->size <= BATCH - TILE)
            batch->size += append_near(batch->slot + batch->size, group, columns, rows->side->near[(*at)++], limit);
        discard_far(batch, group, columns, limit);
    }
    if (batch->size) measure(batch, group, columns, (real)(1 / p->squared_radius));
    return batch->size;
}
