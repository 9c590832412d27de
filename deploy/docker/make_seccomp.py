#!/usr/bin/env python3
"""Writes seccomp.json: the system calls that the server, its tools and a shell in its image may make.

Docker, containerd and CRI-O read the same file. What is not named gets EPERM, as under the profiles that they have by
themselves. Those let more through, for programs of every kind, but not io_uring, which this file is for. Without
arguments this writes the file; with --check it fails where the file is not what it would write.
"""

import json
import pathlib
import sys

FILE = pathlib.Path(__file__).with_name("seccomp.json")

ALLOWED = {
    "files": """
        access chdir chmod chown close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 fadvise64
        fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fstat
        fstatfs fsync ftruncate getcwd getdents getdents64 getxattr ioctl lchown lgetxattr link linkat listxattr
        llistxattr lseek lstat mkdir mkdirat newfstatat open openat openat2 pipe pipe2 pread64 preadv preadv2 pwrite64
        pwritev pwritev2 read readahead readlink readlinkat readv rename renameat renameat2 rmdir sendfile splice stat
        statfs statx symlink symlinkat sync sync_file_range syncfs truncate umask unlink unlinkat utime utimensat utimes
        write writev
    """,
    "rings": "io_uring_enter io_uring_register io_uring_setup",
    "sockets": """
        accept accept4 bind connect getpeername getsockname getsockopt listen recvfrom recvmmsg recvmsg sendmmsg sendmsg
        sendto setsockopt shutdown socketpair
    """,
    "waiting": """
        clock_getres clock_gettime clock_nanosleep epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2
        epoll_wait eventfd eventfd2 futex futex_waitv getitimer gettimeofday nanosleep pause poll ppoll pselect6 select
        setitimer time timer_create timer_delete timer_gettime timer_settime timerfd_create timerfd_gettime
        timerfd_settime times
    """,
    "memory": """
        brk madvise membarrier mincore mlock mlock2 mmap mprotect mremap msync munlock munmap
    """,
    "processes": """
        alarm arch_prctl capget capset execve execveat exit exit_group get_robust_list getcpu getegid geteuid getgid
        getgroups getpgid getpgrp getpid getppid getpriority getrandom getresgid getresuid getrlimit getrusage getsid
        gettid getuid kill pidfd_open pidfd_send_signal prctl prlimit64 restart_syscall rseq rt_sigaction rt_sigpending
        rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max
        sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_setaffinity
        sched_setattr sched_yield set_robust_list set_tid_address setgid setgroups setpgid setpriority setregid setresgid
        setresuid setreuid setrlimit setsid setuid sigaltstack signalfd4 sysinfo tgkill tkill uname vfork fork wait4 waitid
    """,
}

# Of sockets those of these families (address_families(7)): local ones, IPv4, IPv6, and netlink, which the C library
# asks for the machine's addresses.
AF_UNIX, AF_INET, AF_INET6, AF_NETLINK = 1, 2, 10, 16
# clone(2) without any of the flags that make a namespace.
NEW_NAMESPACES = sum(
    1 << bit
    for bit in (
        17,  # CLONE_NEWNS
        25,  # CLONE_NEWCGROUP
        26,  # CLONE_NEWUTS
        27,  # CLONE_NEWIPC
        28,  # CLONE_NEWUSER
        29,  # CLONE_NEWPID
        30,  # CLONE_NEWNET
    )
)
ENOSYS = 38


def profile():
    rules = [
        {"names": sorted(names.split()), "action": "SCMP_ACT_ALLOW"} for names in ALLOWED.values()
    ]
    for family in (AF_UNIX, AF_INET, AF_INET6, AF_NETLINK):
        argument = {"index": 0, "value": family, "op": "SCMP_CMP_EQ"}
        rules.append({"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [argument]})
    no_namespace = {"index": 0, "value": NEW_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
    rules.append({"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [no_namespace]})
    # Its flags lie in memory, where a filter does not see them. The C library takes clone instead where there is none.
    rules.append({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS})
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": rules,
    }


def main():
    text = json.dumps(profile(), indent=2) + "\n"
    if sys.argv[1:] == ["--check"]:
        if FILE.read_text() != text:
            sys.exit(f"{FILE} is not what {sys.argv[0]} writes")
        return
    FILE.write_text(text)


if __name__ == "__main__":
    main()
