/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* What a settlement transaction did, as metrics. Thread: any; no state of its own. */
#include "batch.h"

/* A batch that is committed: outcomes, reasons, size, ages. */
void tally_batch(const struct batch *batch, int64_t now_ms);
