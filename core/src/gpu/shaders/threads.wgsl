// How the threads of a workgroup add up what each has, through workgroup memory. Compiled before files that say so, which
// declare THREADS, the threads of their workgroups, and Sum, the type of what is added. subgroups.wgsl declares the same for
// devices with subgroups.
//
// No bindings. Mirrors plain sums.

struct Threads {
    @builtin(local_invocation_index) index: u32,
}

var<workgroup> partial: array<Sum, THREADS>;

// A thread's number in its workgroup.
fn number(threads: Threads) -> u32 {
    return threads.index;
}

// How many neighbours can exchange numbers without waiting for each other.
fn neighbours(threads: Threads) -> u32 {
    return 1u;
}

// The largest of what `width` neighbours have, for each of them; `width` is a power of two and at most neighbours().
fn largest_of(threads: Threads, own: f32, width: u32) -> f32 {
    return own;
}

// The sum over `width` neighbours, for the first of them; `width` is a power of two. Once a kernel.
fn sum_for_first(threads: Threads, own: Sum, width: u32) -> Sum {
    let thread = threads.index;
    partial[thread] = own;
    for (var step = width / 2u; step > 0u; step /= 2u) {
        workgroupBarrier();
        if (thread % width < step) {
            partial[thread] += partial[thread + step];
        }
    }
    return partial[thread];
}

// The sum over the workgroup, for every thread.
fn sum_for_all(threads: Threads, own: Sum) -> Sum {
    let first = sum_for_first(threads, own, THREADS);
    workgroupBarrier();
    let sum = partial[0];
    // Before it is written again.
    workgroupBarrier();
    return sum;
}
