/* SPDX-License-Identifier: Apache-2.0 */
/* Where tests stop a process. See gf/point.h; without GF_POINTS this file is empty. */
#include "gf/point.h"

#include "gf/base.h" /* a translation unit must not be empty */

#ifdef GF_POINTS
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gf/log.h"
#include "gf/num.h"

#define ORDERS_MAX 8

struct order {
    enum gf_point point;
    int signal;
    int64_t at; /* the pass at which it is carried out */
    atomic_llong passes;
};

static const char *const names[] = {
#define NAME(name, text) #name,
    GF_POINT_MAP(NAME)};
static const char *const texts[] = {
#define TEXT(name, text) text,
    GF_POINT_MAP(TEXT)};

static pthread_once_t once = PTHREAD_ONCE_INIT;
/* Written once, then read-only but for the passes. */
static struct order orders[ORDERS_MAX];
static int order_count;

bool gf_point_about(int i, const char **name_r, const char **text_r)
{
    if (i < 0 || i >= (int)GF_COUNT(names))
        return false;
    *name_r = names[i];
    *text_r = texts[i];
    return true;
}

static GF_NORETURN void refuse(const char *what)
{
    fprintf(stderr, "GIFTFLOW_POINT: not understood: %s (NAME:kill|stop[:N][,...]; see giftflow points)\n", what);
    exit(2);
}

/* NAME:ACTION[:N] */
static void add_order(const char *text, size_t len)
{
    const char *colon = memchr(text, ':', len), *action, *end = text + len, *number;
    struct order *order = &orders[order_count];
    size_t name_len, action_len;
    int i = 0;

    if (order_count == ORDERS_MAX || colon == NULL)
        refuse(text);
    name_len = (size_t)(colon - text);
    action = colon + 1;
    number = memchr(action, ':', (size_t)(end - action));
    action_len = (size_t)((number != NULL ? number : end) - action);
    while (i < GF_POINT_COUNT && (strlen(names[i]) != name_len || memcmp(names[i], text, name_len) != 0))
        i++;
    order->signal = action_len == 4 && memcmp(action, "kill", 4) == 0   ? SIGKILL
                    : action_len == 4 && memcmp(action, "stop", 4) == 0 ? SIGSTOP
                                                                        : 0;
    order->at = 1;
    if (i == GF_POINT_COUNT || order->signal == 0 ||
        (number != NULL && !gf_num_parse_i64(number + 1, (size_t)(end - number - 1), 1, INT32_MAX, &order->at)))
        refuse(text);
    order->point = (enum gf_point)i;
    order_count++;
}

static void read_orders(void)
{
    const char *text = getenv("GIFTFLOW_POINT");

    while (text != NULL && *text != '\0') {
        size_t len = strcspn(text, ",");

        add_order(text, len);
        text += len + (text[len] == ',' ? 1 : 0);
    }
}

void gf_point_pass(enum gf_point point)
{
    pthread_once(&once, read_orders);
    for (int i = 0; i < order_count; i++) {
        struct order *order = &orders[i];

        if (order->point != point || atomic_fetch_add(&order->passes, 1) + 1 != order->at)
            continue;
        gf_log(GF_WARN, "point_reached", "name=%s action=%s", names[point], order->signal == SIGKILL ? "kill" : "stop");
        (void)raise(order->signal); /* to this very thread: it does not go one step further */
    }
}
#endif
