/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* The partition count that init pinned in MySQL against what Kafka says (F4): whoever produces commands must not when they
 * differ, because a wallet would come to stand in two partitions. Blocking; opens and closes its own connections. */
#include "gf/base.h"
#include "gf/config.h"

/* OK: it was asked; where they differ error_r names both counts. */
GF_NODISCARD enum gf_class gf_pinned_check(const struct gf_config *config, const char *topic, bool *agreed_r,
                                           struct gf_error *error_r);
