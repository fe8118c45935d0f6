/* SPDX-License-Identifier: Apache-2.0 */
/* Opens libsamepage when it runs already, with a second thread: nothing may be done to it. usage: opened PATH */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

static void *other(void *arg)
{
    pause();
    return arg;
}

int main(int argc, char **argv)
{
    const char *(*why)(void);
    pthread_t thread;
    int (*init)(void);
    void *library;

    if (argc < 2 || pthread_create(&thread, NULL, other, NULL))
        return 2;
    library = dlopen(argv[1], RTLD_NOW);
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        return 3;
    }
    init = (int (*)(void))dlsym(library, "samepage_init");
    why = (const char *(*)(void))dlsym(library, "samepage_why");
    if (!init || !why)
        return 4;
    printf("%d: ", init());
    puts(why());
    return 0;
}
