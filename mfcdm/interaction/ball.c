/* The ball convolution and its gradients over near pairs of tiles: what tiled.py computes, in C.
 *
 *     out_bhi = 1/Z sum_j w_hij v_bhj,  w_hij = exp(-kappa_h u_ij) (1 - u_ij)^2,  u_ij = min(|x_i - y_j|^2 / R^2, 1)
 *
 * Every pass is a sweep over rows i that gathers from columns j. The rows of one vector register (a group) are treated
 * together, one row a lane. For each group the columns within R of its bounding box are collected into batches; a batch
 * then costs one exponential and one multiply-add a channel for each (head, column) and register. Nothing is ever
 * scattered to another row: the result does not depend on the number of threads. With ghat_i = g_i / Z_i,
 * s_i = [kernel] ghat_i . out_i and S_ij = dL/dw_ij = ghat_i . v_j - s_i, the gradients are
 *
 *     dv_j     = sum_i w_ij ghat_i                             rows: sources, columns: queries
 *     dy_j     = -sum_ih S_ij dw_ij/du (2 / R^2) (x_i - y_j)   the same sweep
 *     dkappa_h = -sum_ij S_ij w_ij u_ij                        the same sweep
 *     dx_i     = sum_jh S_ij dw_ij/du (2 / R^2) (x_i - y_j)    rows: queries, columns: sources
 *
 * and where x and y are the same points one sweep, with S_ij + S_ji, gives both roles.
 *
 * Compiled twice, with PRECISION 32 and 64. IEEE semantics are needed (NaN must stay visible, and rounding by a magic
 * number must not be simplified away), so -ffast-math is not: the vectors are explicit.
 */
#include "ball.h"

#ifdef _OPENMP
#include <omp.h>
#else
#define omp_get_thread_num() 0
#endif
#define FOR_EACH_TILE _Pragma("omp parallel for schedule(dynamic) num_threads((int)p->num_threads)")

static void *aligned(int64_t bytes) { return aligned_alloc(64, (size_t)(bytes + 64) / 64 * 64); }

static void release(layout *layout) { free(layout->points), free(layout->features), free(layout->pairing); }

/* to[c] = scale from[c stride], filled up with 0. */
INLINE void copy(real *restrict to, const real *restrict from, int64_t stride, real scale, int64_t num, int64_t padded)
{
    if (stride == 1) /* the usual case, a loop over registers */
        for (int64_t c = 0; c < num; c++) to[c] = from[c] * scale;
    else
        for (int64_t c = 0; c < num; c++) to[c] = from[c * stride] * scale;
    for (int64_t c = num; c < padded; c++) to[c] = 0;
}

/* Lay out one side in tile order: v (weighted by 1), or ghat = g / Z and, with `out`, s = ghat . out. 0: no memory. */
static int lay_out(layout *to, const problem *p, const side *side, const array *values, const real *weight,
                   const array *out)
{
    const int64_t num_heads = p->num_heads, num_channels = p->num_channels, channels = padded_channels(p);
    const int64_t num_tiles = p->num_clouds * side->num_tiles, slots = num_tiles * TILE;
    *to = (layout){.side = side, .num_slots = slots, .stride = num_heads * channels};
    to->points = aligned(slots * SPACE * sizeof(real));
    to->features = values ? aligned(slots * num_heads * channels * sizeof(real)) : NULL;
    to->pairing = out ? aligned(slots * num_heads * sizeof(real)) : NULL;
    if (!to->points || (values && !to->features) || (out && !to->pairing)) return 0;
    FOR_EACH_TILE
    for (int64_t tile = 0; tile < num_tiles; tile++) {
        const int64_t b = tile / side->num_tiles, first = tile % side->num_tiles * TILE;
        const int count = points_in(side, tile);
        for (int s = 0; s < TILE; s++) {
            const int64_t slot = tile * TILE + s, i = s < count ? side->order[b * side->num_rows + first + s] : 0;
            for (int d = 0; d < SPACE; d++) {
                const real *x = row_of(&side->points, b, 0, i) + d * side->points.strides[3];
                to->points[d * slots + slot] = s < count && d < p->dim ? *x * (real)p->unit : 0;
            }
            for (int64_t h = 0; values && h < num_heads; h++) {
                real *feature = to->features + (slot * num_heads + h) * channels, pairing = 0;
                const real scale = weight && s < count ? weight[(b * num_heads + h) * side->num_rows + i] : 1;
                const int64_t num = s < count ? num_channels : 0;
                copy(feature, row_of(values, b, h, i), values->strides[3], scale, num, channels);
                if (!out) continue;
                const real *average = row_of(out, b, h, i);
                for (int64_t c = 0; c < num; c++) pairing += feature[c] * average[c * out->strides[3]];
                to->pairing[slot * num_heads + h] = pairing;
            }
        }
    }
    return 1;
}

/* Write the rows of a group, (heads, channels) registers with `stride` registers a head, and 0 into rows of padding. */
static void write_rows(const array *to, const side *side, int64_t tile, int part, int num_rows, const vec *values,
                  int64_t num_heads, int64_t num_channels, int64_t stride)
{
    const int64_t b = tile / side->num_tiles, first = tile % side->num_tiles * TILE + part;
    for (int lane = 0; lane < LANES && first + lane < side->num_rows; lane++)
        for (int64_t h = 0; h < num_heads; h++) {
            real *row = row_of(to, b, h, side->order[b * side->num_rows + first + lane]);
            const real *value = (const real *)(values + h * stride) + lane;
            for (int64_t c = 0; c < num_channels; c++)
                row[c * to->strides[3]] = lane < num_rows ? value[c * LANES] : 0;
        }
}

/* Number of points among the LANES slots from `part` of a tile. */
INLINE int rows_in(const side *side, int64_t tile, int part)
{
    int count = points_in(side, tile) - part;
    return count < 0 ? 0 : count > LANES ? LANES : count;
}

/* exp(-kappa_h u) of a batch, times KERNEL_SCALE with the kernel normalisation. */
INLINE void gaussians(batch *batch, const problem *p, int64_t h)
{
    const real kappa = p->kappa[h];
    const int shift = p->kernel ? KERNEL_EXPONENT : 0;
    for (int k = 0; k < batch->size; k++) batch->w[k] = exp_shifted(batch->u[k] * -kappa, shift);
}

/* out and 1 / Z of the queries of one tile; scratch holds H (padded channels + 1) registers. */
static void average_tile(const problem *p, const layout *queries, const layout *sources, int64_t tile, vec *scratch)
{
    const int64_t num_heads = p->num_heads, channels = padded_channels(p), stride = num_heads * channels;
    const int64_t b = tile / queries->side->num_tiles, num_sources = p->sources.lengths[b];
    vec *sum = scratch, *z = scratch + stride;
    const array inverse_z = {p->inverse_z, {num_heads * p->queries.num_rows, p->queries.num_rows, 1, 0}};
    for (int part = 0; part < TILE; part += LANES) {
        const int num_rows = rows_in(queries->side, tile, part);
        const group group = group_of(queries, tile * TILE + part, num_rows);
        batch batch;
        memset(scratch, 0, (stride + num_heads) * sizeof(vec));
        int64_t at = num_rows ? queries->side->offsets[tile] : queries->side->offsets[tile + 1];
        while (next_batch(&batch, p, &group, queries, sources, tile, &at))
            for (int64_t h = 0; h < num_heads; h++) {
                vec z_h = {0};
                gaussians(&batch, p, h);
                for (int k = 0; k < batch.size; k++) batch.w[k] *= batch.cut[k], z_h += batch.w[k];
                z[h] += z_h;
                carry(sum + h * channels, &batch, sources->features + h * channels, channels);
            }
        for (int64_t h = 0; h < num_heads; h++) {
            z[h] = p->kernel ? choose((mask)(z[h] <= SMALLEST_NORMALISER), (vec){0}, 1 / z[h])
                             : (vec){0} + 1 / (real)(num_sources > 1 ? num_sources : 1);
            for (int64_t c = 0; c < channels; c++) sum[h * channels + c] *= z[h];
        }
        write_rows(&p->out, queries->side, tile, part, num_rows, sum, num_heads, p->num_channels, channels);
        write_rows(&inverse_z, queries->side, tile, part, num_rows, z, num_heads, 1, 1);
    }
}

/* One sweep of the backward pass. */
typedef struct {
    const layout *rows, *columns;
    int both;                          /* S_ij + S_ji instead of S_ij: rows and columns are the same points */
    const array *positions, *carried;  /* sum_jh S dw/dx_i and sum_j w_ij b_j; data NULL: not wanted */
    double *sharpness;                 /* sum_ij S_ij w_ij u_ij of each tile and head (tiles, H); NULL: not wanted */
} sweep;

/* Registers [c] of a group: feature c of its rows, from (slots, stride). */
static void load_rows(vec *to, const real *features, int64_t stride, int64_t num)
{
    for (int64_t c = 0; c < num; c++)
        for (int lane = 0; lane < LANES; lane++) to[c][lane] = features[lane * stride + c];
}

/* sum_jh S dw/du (x_i - y_j) of a batch, with dw/du = -exp(-kappa u) (1 - u) (2 + kappa (1 - u)). */
static void pull(vec *dx, const batch *batch, const group *group)
{
    vec partial[SPACE] = {{0}};
    for (int k = 0; k < batch->size; k++) {
        vec dw_du = -(batch->cut[k] * batch->sum_kappa_s[k] + 2 * (1 - batch->u[k]) * batch->sum_s[k]);
        for (int d = 0; d < SPACE; d++)
            partial[d] += dw_du * (group->x[d] - batch->y[d][k]);
    }
    for (int d = 0; d < SPACE; d++) dx[d] += partial[d];
}

/* S_hij of a batch, and what is summed from it. Returns the sum of S w u. w holds exp(-kappa u) and keeps it. */
static double differentiate(const problem *p, const sweep *sweep, batch *batch, int64_t h, const vec *own,
                            const vec *other, const vec *pairing)
{
    const int64_t num_heads = p->num_heads, channels = padded_channels(p);
    const real *s_j = sweep->columns->pairing;
    for (int k = 0; k < batch->size; k++)
        batch->s[k] = -pairing[h] - (s_j ? s_j[batch->slot[k] * num_heads + h] : 0);
    multiply(batch, own + h * channels, sweep->columns->features + h * channels, p->num_channels);
    if (sweep->both) multiply(batch, other + h * channels, sweep->rows->features + h * channels, p->num_channels);
    vec sum = {0};
    for (int k = 0; k < batch->size; k++) {
        vec s = batch->s[k] * batch->w[k];
        sum += s * (batch->cut[k] * batch->u[k]);
        if (!sweep->positions->data) continue;
        batch->sum_s[k] = h ? batch->sum_s[k] + s : s;
        batch->sum_kappa_s[k] = h ? batch->sum_kappa_s[k] + p->kappa[h] * s : p->kappa[h] * s;
    }
    double total = 0;
    for (int lane = 0; lane < LANES; lane++) total += sum[lane];
    return total;
}

/* The gradients that belong to the rows of one tile; scratch holds 3 H padded channels + H registers. */
static void sweep_tile(const problem *p, const sweep *sweep, int64_t tile, vec *scratch)
{
    const layout *rows = sweep->rows, *columns = sweep->columns;
    const int64_t num_heads = p->num_heads, channels = padded_channels(p), stride = num_heads * channels;
    const int differentiated = sweep->positions->data || sweep->sharpness;
    const real *s_i = sweep->both ? columns->pairing : rows->pairing;
    vec *sum = scratch, *own = sum + stride, *other = own + stride, *pairing = other + stride;
    for (int64_t h = 0; sweep->sharpness && h < num_heads; h++) sweep->sharpness[tile * num_heads + h] = 0;
    for (int part = 0; part < TILE; part += LANES) {
        const int64_t slot = tile * TILE + part;
        const int num_rows = rows_in(rows->side, tile, part);
        const group group = group_of(rows, slot, num_rows);
        vec dx[SPACE] = {{0}};
        batch batch;
        memset(sum, 0, stride * sizeof(vec));
        memset(pairing, 0, num_heads * sizeof(vec));
        if (differentiated) load_rows(own, rows->features + slot * stride, stride, stride);
        if (sweep->both) load_rows(other, columns->features + slot * stride, stride, stride);
        if (s_i) load_rows(pairing, s_i + slot * num_heads, num_heads, num_heads);
        int64_t at = num_rows ? rows->side->offsets[tile] : rows->side->offsets[tile + 1];
        while (next_batch(&batch, p, &group, rows, columns, tile, &at)) {
            for (int64_t h = 0; h < num_heads; h++) {
                gaussians(&batch, p, h);
                double swu = differentiated ? differentiate(p, sweep, &batch, h, own, other, pairing) : 0;
                if (sweep->sharpness) sweep->sharpness[tile * num_heads + h] += swu;
                if (!sweep->carried->data) continue;
                for (int k = 0; k < batch.size; k++) batch.w[k] *= batch.cut[k];
                carry(sum + h * channels, &batch, columns->features + h * channels, channels);
            }
            if (sweep->positions->data && num_heads) pull(dx, &batch, &group); /* without heads there are no sums */
        }
        const real du_dx = (real)(2 * p->unit / p->squared_radius); /* du/dx_i = 2 (x_i - y_j) / R^2 */
        for (int d = 0; d < SPACE; d++) dx[d] *= du_dx;
        if (sweep->positions->data)
            write_rows(sweep->positions, rows->side, tile, part, num_rows, dx, 1, p->dim, SPACE);
        if (sweep->carried->data)
            write_rows(sweep->carried, rows->side, tile, part, num_rows, sum, num_heads, p->num_channels, channels);
    }
}

/* Run one sweep over all tiles; dkappa_h is summed over the tiles in their order. 0: no memory. */
static int run_sweep(const problem *p, sweep sweep, real *dkappa)
{
    const int64_t num_heads = p->num_heads, num_tiles = p->num_clouds * sweep.rows->side->num_tiles;
    const int64_t registers = num_heads * (3 * padded_channels(p) + 1);
    vec *scratch = aligned(p->num_threads * registers * sizeof(vec));
    sweep.sharpness = dkappa ? aligned(num_tiles * num_heads * sizeof(double)) : NULL;
    const int enough = scratch && (sweep.sharpness || !dkappa);
    if (enough) {
        FOR_EACH_TILE
        for (int64_t tile = 0; tile < num_tiles; tile++)
            sweep_tile(p, &sweep, tile, scratch + omp_get_thread_num() * registers);
        for (int64_t h = 0; dkappa && h < num_heads; h++) {
            double sum = 0;
            for (int64_t tile = 0; tile < num_tiles; tile++) sum += sweep.sharpness[tile * num_heads + h];
            dkappa[h] = (real)(sweep.both ? -sum / 2 : -sum);
        }
    }
    free(scratch), free(sweep.sharpness);
    return enough;
}

/* Write out and inverse_z. Returns whether there was enough memory. */
int EXPORT(ball_forward)(const problem *p)
{
    const int64_t num_tiles = p->num_clouds * p->queries.num_tiles, registers = p->num_heads * (padded_channels(p) + 1);
    layout queries = {0}, sources = {0};
    vec *scratch = aligned(p->num_threads * registers * sizeof(vec));
    const int enough = scratch && lay_out(&sources, p, &p->sources, &p->v, NULL, NULL) &&
                       lay_out(&queries, p, &p->queries, NULL, NULL, NULL);
    if (enough) {
        FOR_EACH_TILE
        for (int64_t tile = 0; tile < num_tiles; tile++)
            average_tile(p, &queries, &sources, tile, scratch + omp_get_thread_num() * registers);
    }
    release(&queries), release(&sources), free(scratch);
    return enough;
}

/* Write the gradients that are wanted. Returns whether there was enough memory. */
int EXPORT(ball_backward)(const problem *p)
{
    const array none = {0};
    layout queries = {0}, sources = {0};
    int enough = lay_out(&sources, p, &p->sources, &p->v, NULL, NULL) &&
                 lay_out(&queries, p, &p->queries, &p->g, p->inverse_z, p->kernel ? &p->out : NULL);
    if (enough && (p->dv.data || p->dy.data || p->dkappa)) {
        const int both = p->self_interaction && p->dy.data;
        enough = run_sweep(p, (sweep){&sources, &queries, both, &p->dy, &p->dv, NULL}, p->dkappa);
    }
    if (enough && p->dx.data) enough = run_sweep(p, (sweep){&queries, &sources, 0, &p->dx, &none, NULL}, NULL);
    release(&queries), release(&sources);
    return enough;
}
