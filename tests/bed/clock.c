// A wall clock that can be stepped, for the programs of one node of a bed: preloaded before libc. All nodes of a bed run on one kernel,
// which has one wall clock. What goes by monotonic time is not touched. A wait that ends at a moment of the wall clock ends at that of the
// stepped one, if it begins behind the step; one that has begun before goes on as it is.
//
// The step, in seconds, is the 32-bit number at the beginning of a file, which is looked at each time. Without that file the clock is right.
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int *step;

__attribute__((constructor)) static void find(void)
{
	int file = open("/run/bed-clock", O_RDONLY | O_CLOEXEC);
	if (file < 0)
		return;
	void *there = mmap(0, sizeof(*step), PROT_READ, MAP_SHARED, file, 0);
	close(file);
	if (there != MAP_FAILED)
		step = there;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
	int result = syscall(SYS_clock_gettime, clock, now);
	if (result == 0 && step && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
		now->tv_sec += *step;
	return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
	struct timespec exact;
	(void)zone;
	if (clock_gettime(CLOCK_REALTIME, &exact))
		return -1;
	now->tv_sec = exact.tv_sec;
	now->tv_usec = exact.tv_nsec / 1000;
	return 0;
}

time_t time(time_t *also)
{
	struct timespec now;
	if (clock_gettime(CLOCK_REALTIME, &now))
		return -1;
	if (also)
		*also = now.tv_sec;
	return now.tv_sec;
}

static struct timespec kernels(struct timespec until)
{
	if (step)
		until.tv_sec -= *step;
	return until;
}

int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict until)
{
	struct timespec then = kernels(*until);
	return sem_clockwait(semaphore, CLOCK_REALTIME, &then);
}

// By which clock a condition waits is not to be seen from outside: one of them began long before the other.
int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
			   const struct timespec *restrict until)
{
	const time_t years = 365 * 24 * 3600;
	struct timespec monotonic;
	clock_gettime(CLOCK_MONOTONIC, &monotonic);
	if (until->tv_sec < monotonic.tv_sec + years)
		return pthread_cond_clockwait(condition, mutex, CLOCK_MONOTONIC, until);
	struct timespec then = kernels(*until);
	return pthread_cond_clockwait(condition, mutex, CLOCK_REALTIME, &then);
}
