/* SPDX-License-Identifier: Apache-2.0 */
/* Texts of outcomes and dead letters, from the two tables of gf/outcome.h. Pure; numbers that are not in a table (a row
 * that a newer version wrote) have the text "unknown". */
#include "gf/outcome.h"

#define OUTCOME_TEXT(name, number, text, message) \
    case GF_OUTCOME_##name:                       \
        return text;
#define OUTCOME_MESSAGE(name, number, text, message) \
    case GF_OUTCOME_##name:                          \
        return message;
#define DEAD_TEXT(name, number, text, message) \
    case GF_DEAD_##name:                       \
        return text;
#define DEAD_MESSAGE(name, number, text, message) \
    case GF_DEAD_##name:                          \
        return message;

const char *gf_outcome_text(enum gf_outcome outcome)
{
    switch (outcome) {
        GF_OUTCOME_MAP(OUTCOME_TEXT)
    }
    return "unknown";
}

const char *gf_outcome_message(enum gf_outcome outcome)
{
    switch (outcome) {
        GF_OUTCOME_MAP(OUTCOME_MESSAGE)
    }
    return "unknown";
}

const char *gf_dead_text(enum gf_dead dead)
{
    switch (dead) {
    case GF_DEAD_NONE:
        return "none";
        GF_DEAD_MAP(DEAD_TEXT)
    }
    return "unknown";
}

const char *gf_dead_message(enum gf_dead dead)
{
    switch (dead) {
    case GF_DEAD_NONE:
        return "none";
        GF_DEAD_MAP(DEAD_MESSAGE)
    }
    return "unknown";
}
