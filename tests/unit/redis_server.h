/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* A private redis-server for one test program: own temporary directory, unix socket, dies with the test.
 * Owns the directory and the child; any failure to start fails the test program. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "gf/clock.h"
#include "gf/redis.h"

#define REDIS_PATIENCE_MS 60000 /* a server that stands still with its machine is there all the same */

struct redis_server {
    char dir[64], socket[96], log[96];
    char bind[16], port[8]; /* set before the launch: TCP too */
    pid_t pid; /* 0: not running */
    struct gf_config config;
};

static inline void redis_server_must(bool ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "redis_server.h: %s failed\n", what);
    exit(1);
}

static inline void redis_server_launch(struct redis_server *server)
{
    struct gf_redis_sync *redis = NULL;
    struct gf_error error;

    server->pid = fork();
    redis_server_must(server->pid >= 0, "fork");
    if (server->pid == 0) {
        int fd = open(server->log, O_WRONLY | O_CREAT | O_APPEND, 0600);

        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (fd >= 0)
            (void)dup2(fd, 1);
        execlp("redis-server", "redis-server", "--port", server->port, "--bind", server->bind, "--unixsocket", server->socket, "--save", "", "--dir",
               server->dir, (char *)NULL);
        _exit(127);
    }
    for (int64_t end = gf_clock_mono_ms() + 60000; gf_clock_mono_ms() < end; gf_clock_sleep_ms(20)) {
        if (gf_redis_sync_connect(&server->config, &redis, &error) == GF_OK)
            break;
        redis_server_must(waitpid(server->pid, NULL, WNOHANG) == 0, "redis-server");
    }
    redis_server_must(redis != NULL, "connect to redis-server");
    gf_redis_sync_close(&redis);
}

/* The configuration is there at once, the server only after redis_server_launch. */
static inline void redis_server_init(struct redis_server *server)
{
    memset(server, 0, sizeof(*server));
    snprintf(server->dir, sizeof(server->dir), "/tmp/gf-redis-XXXXXX");
    redis_server_must(mkdtemp(server->dir) != NULL, "mkdtemp");
    snprintf(server->socket, sizeof(server->socket), "%s/s", server->dir);
    snprintf(server->log, sizeof(server->log), "%s/log", server->dir);
    snprintf(server->config.redis_url, sizeof(server->config.redis_url), "unix://%s", server->socket);
    gf_copy(server->bind, sizeof(server->bind), "127.0.0.1");
    gf_copy(server->port, sizeof(server->port), "0");
    server->config.redis_epoch = 1;
    server->config.redis_timeout = REDIS_PATIENCE_MS;
}

static inline void redis_server_kill(struct redis_server *server)
{
    if (server->pid <= 0)
        return;
    (void)kill(server->pid, SIGKILL);
    (void)waitpid(server->pid, NULL, 0);
    server->pid = 0;
    (void)unlink(server->socket);
}

static inline void redis_server_stop(struct redis_server *server)
{
    redis_server_kill(server);
    (void)unlink(server->log);
    (void)rmdir(server->dir);
}
