/* Runs a fuzz target on the files that are named, without a fuzzer: for compilers that have none, and for debuggers. */
#include "fuzzing.h"

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        FILE *file = fopen(argv[i], "rb");
        if (!file) {
            perror(argv[i]);
            return 1;
        }
        fseek(file, 0, SEEK_END);
        size_t size = (size_t)ftell(file);
        rewind(file);
        uint8_t *data = malloc(size ? size : 1);
        CHECK(data && fread(data, 1, size, file) == size);
        fclose(file);
        fprintf(stderr, "%s\n", argv[i]); /* the last one that is named is the one that fails */
        LLVMFuzzerTestOneInput(data, size);
        free(data);
    }
    printf("%d inputs\n", argc - 1);
    return 0;
}
