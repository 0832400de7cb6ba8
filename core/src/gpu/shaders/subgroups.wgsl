// What threads.wgsl declares, for devices with subgroups of any size, which may be another for each kernel: sums within a subgroup
// need no workgroup memory, and those of several subgroups one barrier. Compiled before files that say so.
//
// No bindings. Mirrors threads.wgsl.

struct Threads {
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
    @builtin(subgroup_size) size: u32,
    @builtin(subgroup_invocation_id) lane: u32,
}

// One number a subgroup.
var<workgroup> partial: array<Sum, THREADS>;

// A thread's number in its workgroup: threads of a subgroup are neighbours, which their index in the workgroup does not promise.
fn number(threads: Threads) -> u32 {
    return threads.subgroup * threads.size + threads.lane;
}

fn neighbours(threads: Threads) -> u32 {
    return threads.size;
}

fn largest_of(threads: Threads, own: f32, width: u32) -> f32 {
    if (width == threads.size) {
        return subgroupMax(own);
    }
    var largest = own;
    for (var step = 1u; step < width; step *= 2u) {
        largest = max(largest, subgroupShuffleXor(largest, step));
    }
    return largest;
}

fn sum_for_first(threads: Threads, own: Sum, width: u32) -> Sum {
    if (width < threads.size) {
        var sum = own;
        for (var step = 1u; step < width; step *= 2u) {
            sum += subgroupShuffleXor(sum, step);
        }
        return sum;
    }
    let sum = subgroupAdd(own);
    if (width == threads.size) {
        return sum;
    }
    if (threads.lane == 0u) {
        partial[threads.subgroup] = sum;
    }
    workgroupBarrier();
    var total = sum;
    // Of the others; the first subgroup's threads have their own.
    for (var i = 1u; i < width / threads.size; i += 1u) {
        total += partial[min(threads.subgroup + i, THREADS - 1u)];
    }
    return total;
}

fn sum_for_all(threads: Threads, own: Sum) -> Sum {
    let sum = subgroupAdd(own);
    if (threads.subgroups == 1u) {
        return sum;
    }
    if (threads.lane == 0u) {
        partial[threads.subgroup] = sum;
    }
    workgroupBarrier();
    var total = partial[0];
    for (var i = 1u; i < threads.subgroups; i += 1u) {
        total += partial[i];
    }
    // Before it is written again.
    workgroupBarrier();
    return total;
}
