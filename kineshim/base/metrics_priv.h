/* SPDX-License-Identifier: Apache-2.0 */
/* What metrics.c (storage) and metrics_render.c (the table as data, texts) share; tests may look. */
#ifndef KS_BASE_METRICS_PRIV_H
#define KS_BASE_METRICS_PRIV_H

#include "base/metrics.h"

enum ks_metrics_type { KS_METRIC_COUNTER, KS_METRIC_GAUGE, KS_METRIC_HISTOGRAM };
enum ks_metrics_show { KS_METRIC_ALWAYS, KS_METRIC_USED, KS_METRIC_EXTENSIVE, KS_METRIC_SAMPLED };

struct ks_metrics_row {
	enum ks_metrics_type type;
	enum ks_metrics_show show;
	enum ks_metrics_label label, more;
	enum ks_metrics_buckets buckets;
	size_t cell, step; /* of the first series; from one to the next */
	const char *name, *help;
};
extern const struct ks_metrics_row ks_metrics_rows[KS_METRIC_ROWS];

struct ks_metrics_bounds {
	const uint64_t *bounds;
	size_t count;
	double scale;
};
extern const struct ks_metrics_bounds ks_metrics_bounds[KS_METRIC_BUCKETS_COUNT];

size_t ks_metrics_series(const struct ks_metrics_row *row);
uint64_t ks_metrics_sum(size_t cell);
double ks_metrics_gauge(size_t cell);
bool ks_metrics_used(size_t cell); /* counted or set, if only to 0 */
void ks_metrics_ask(struct ks_metrics_sink *sink);

#endif
