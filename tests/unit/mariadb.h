/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* A private MariaDB server for one test program: own temporary directory, unix socket, dies with the test. With
 * GIFTFLOW_TEST_MYSQLD it is MySQL's instead, by that command (./dev test --mysql).
 * Owns the directory and the child process; mariadb_stop removes both. Any failure to start fails the test program. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "gf/buf.h"
#include "gf/clock.h"
#include "gf/config.h"
#include "gf/sql.h"

struct mariadb {
    char dir[64], socket[128];
    char bind[16], port[8]; /* set before the launch: TCP too */
    pid_t pid;
    struct gf_config config; /* points at this server: user root, database giftflow */
};

static inline pid_t mariadb_spawn(char *const argv[], const char *log, const char *tmpdir)
{
    pid_t pid = fork();

    if (pid != 0)
        return pid;
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)setenv("TMPDIR", tmpdir, 1); /* a starting server removes every temporary table there, its neighbours' too */
    int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (fd >= 0) {
        (void)dup2(fd, 1);
        (void)dup2(fd, 2);
    }
    execvp(argv[0], argv);
    _exit(127);
}

static inline void mariadb_must(bool ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "mariadb.h: %s failed\n", what);
    exit(1);
}

static inline void mariadb_configure(struct mariadb *db)
{
    memset(&db->config, 0, sizeof(db->config));
    gf_copy(db->config.mysql_socket, sizeof(db->config.mysql_socket), db->socket);
    gf_copy(db->config.mysql_user, sizeof(db->config.mysql_user), "root");
    gf_copy(db->config.mysql_database, sizeof(db->config.mysql_database), "mysql");
    db->config.mysql_connect_timeout = db->config.mysql_read_timeout = 60000; /* it may stand still with its machine */
}

static inline char *mariadb_command(void)
{
    static char usual[] = "mariadbd";
    char *mysqld = getenv("GIFTFLOW_TEST_MYSQLD");

    return mysqld != NULL && mysqld[0] != '\0' ? mysqld : usual;
}

static inline bool mariadb_is_mysql(void)
{
    return strcmp(mariadb_command(), "mariadbd") != 0;
}

/* option: one more, or NULL. */
static inline void mariadb_launch_with(struct mariadb *db, char *option)
{
    char datadir[128], socket[160], pidfile[128], log[128], bind[32], port[16];
    struct gf_error error;
    struct gf_sql *sql = NULL;

    snprintf(bind, sizeof(bind), db->bind[0] != '\0' ? "--bind-address=%s" : "--skip-networking%s", db->bind);
    snprintf(port, sizeof(port), "--port=%s", db->port[0] != '\0' ? db->port : "3306");
    snprintf(datadir, sizeof(datadir), "--datadir=%s/data", db->dir);
    snprintf(socket, sizeof(socket), "--socket=%s", db->socket);
    snprintf(pidfile, sizeof(pidfile), "--pid-file=%s/pid", db->dir);
    snprintf(log, sizeof(log), "%s/log", db->dir);
    char *argv[] = {mariadb_command(), "--no-defaults", "--user=root", bind, port, datadir, socket, pidfile,
                    "--innodb-buffer-pool-size=32M", "--loose-innodb-log-file-size=16M", "--innodb-flush-log-at-trx-commit=2",
                    option, NULL};
    db->pid = mariadb_spawn(argv, log, db->dir);
    mariadb_must(db->pid > 0, "fork");
    for (int64_t end = gf_clock_mono_ms() + 60000; gf_clock_mono_ms() < end; gf_clock_sleep_ms(50)) {
        if (gf_sql_connect(&db->config, GF_SQL_PLAIN, &sql, &error) == GF_OK)
            break;
        mariadb_must(waitpid(db->pid, NULL, WNOHANG) == 0, mariadb_command());
    }
    mariadb_must(sql != NULL, "connect to mariadbd");
    mariadb_must(gf_sql_execf(sql, &error, "CREATE DATABASE IF NOT EXISTS giftflow") == GF_OK, "CREATE DATABASE");
    gf_sql_close(&sql);
    gf_copy(db->config.mysql_database, sizeof(db->config.mysql_database), "giftflow");
}

static inline void mariadb_launch(struct mariadb *db)
{
    mariadb_launch_with(db, NULL);
}

static inline void mariadb_start(struct mariadb *db)
{
    char datadir[128], log[128];
    int status = -1;

    gf_copy(db->dir, sizeof(db->dir), "/tmp/giftflow-test-XXXXXX");
    mariadb_must(mkdtemp(db->dir) != NULL, "mkdtemp");
    snprintf(db->socket, sizeof(db->socket), "%s/s", db->dir);
    snprintf(datadir, sizeof(datadir), "--datadir=%s/data", db->dir);
    snprintf(log, sizeof(log), "%s/log", db->dir);
    (void)setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
    char *argv[] = {"mariadb-install-db", "--no-defaults", "--user=root", "--auth-root-authentication-method=normal",
                    "--skip-test-db", datadir, NULL};
    char *mysql_argv[] = {mariadb_command(), "--no-defaults", "--user=root", "--initialize-insecure", datadir, NULL};
    pid_t pid = mariadb_spawn(mariadb_is_mysql() ? mysql_argv : argv, log, db->dir);
    mariadb_must(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0, "mariadb-install-db");
    mariadb_configure(db);
    mariadb_launch(db);
}

static inline void mariadb_kill(struct mariadb *db)
{
    (void)kill(db->pid, SIGKILL);
    (void)waitpid(db->pid, NULL, 0);
    db->pid = 0;
}

static inline void mariadb_stop(struct mariadb *db)
{
    int status;

    if (db->pid > 0)
        mariadb_kill(db);
    char *argv[] = {"rm", "-rf", db->dir, NULL};
    pid_t pid = mariadb_spawn(argv, "/dev/null", "/tmp");
    mariadb_must(pid > 0 && waitpid(pid, &status, 0) == pid, "rm");
}
