/* fused_cases.h: the forms of kernels that apply records to the rows they make, part of
 * kernel_cases.h. Every case there of a kernel that has such a form runs it too: what the kernel
 * itself makes must have the plain form's bits, and each record what plain loops make of the
 * row. */
#ifndef INSET_FUSED_CASES_H
#define INSET_FUSED_CASES_H

/* Where a kernel's rows are, as its arguments say; each row has `parts` blocks. A fused norm's rows
 * are a second set. */
typedef struct made_rows {
    char *out[2];
    int64_t rows, width, stride[2];
    int parts;
} made_rows;

static made_rows rows_of_arguments(kernel_id kernel, const void *args)
{
#define ROWS(type, columns)                                                       \
    {                                                                             \
        {((const type *)args)->out, NULL}, ((const type *)args)->n_rows, columns, \
            {((const type *)args)->out_stride, 0}, 1                              \
    }
#define CASE(id, type) \
    case id: return (made_rows)ROWS(type, ((const type *)args)->width)
    switch (kernel) {
        CASE(KERNEL_EMBED, embed_args);
        CASE(KERNEL_LAYERNORM, layernorm_args);
        CASE(KERNEL_RMSNORM, rmsnorm_args);
        CASE(KERNEL_ACTIVATION, activation_args);
        CASE(KERNEL_GATE, gate_args);
        CASE(KERNEL_ADD, add_args);
        CASE(KERNEL_SCALE, scale_args);
    case KERNEL_COLUMNS:
        return (made_rows)ROWS(columns_args, ((const columns_args *)args)->n_columns);
    case KERNEL_ROPE:
        return (made_rows)ROWS(rope_args,
            (int64_t)((const rope_args *)args)->n_heads * ((const rope_args *)args)->head_dim);
    case KERNEL_ATTENTION: {
        const attention_args *a = args;
        return (made_rows){{a->out, NULL}, a->n_rows, (int64_t)a->n_heads * a->head_dim,
            {a->out_stride, 0}, a->n_heads};
    }
    case KERNEL_ADD_LAYERNORM: {
        const add_layernorm_args *a = args;
        return (made_rows){
            {a->out, a->norm}, a->n_rows, a->width, {a->out_stride, a->norm_stride}, 1};
    }
    case KERNEL_ADD_RMSNORM: {
        const add_rmsnorm_args *a = args;
        return (made_rows){
            {a->out, a->norm}, a->n_rows, a->width, {a->out_stride, a->norm_stride}, 1};
    }
    default: return (made_rows){{NULL, NULL}, 0, 0, {0, 0}, 0};
    }
#undef CASE
#undef ROWS
}

/* The bytes from the first row's first to the last row's last element, and the numbers in them. */
typedef struct row_image {
    unsigned char *bytes;
    double *numbers;
    size_t n_bytes;
} row_image;

static row_image fetch_rows(subject *s, int type, const made_rows *made, int k)
{
    const int64_t n = (made->rows - 1) * made->stride[k] + made->width;
    row_image image = {malloc((size_t)n * type_sizes[type]), malloc((size_t)n * sizeof(double)),
        (size_t)n * type_sizes[type]};
    if (!image.bytes || !image.numbers
        || device_download(s->device, image.bytes, made->out[k], image.n_bytes)
        || device_synchronize(s->device))
        abort();
    for (int64_t i = 0; i < n; i++)
        image.numbers[i] = element_get(
            (inset_type)type, image.bytes + (size_t)i * type_sizes[type]);
    return image;
}

/* Makes the rows what they were before any kernel ran, so that who reads a row too early finds no
 * numbers there. */
static void spoil_rows(subject *s, int type, const made_rows *made, int k, const row_image *image)
{
    unsigned char *spoilt = malloc(image->n_bytes);
    if (!spoilt) abort();
    memcpy(spoilt, image->bytes, image->n_bytes);
    for (int64_t r = 0; r < made->rows; r++)
        memset(spoilt + (size_t)(r * made->stride[k]) * type_sizes[type], GUARD_BYTE,
            (size_t)made->width * type_sizes[type]);
    if (device_upload(s->device, made->out[k], spoilt, image->n_bytes)) abort();
    free(spoilt);
}

static void free_rows(row_image *image)
{
    free(image->bytes);
    free(image->numbers);
}

enum { FUSED_RECORDS = 9 };

/* An operand that is not the row: numbers of its own or, as any record may have, a constant. */
static void other_operand(subject *s, const record *r, int type, buffer *b, const void **at,
    uint8_t *operand_type, int64_t *row, int64_t *column, double *constant)
{
    *operand_type = (uint8_t)type;
    *column = (int64_t)(test_random(&s->random) % 2);
    *row = test_random(&s->random) % 3 ? r->columns + 1 : 0;
    *b = record_operand(s, type, (int64_t)r->rows * (r->columns + 1) + 1);
    *at = test_random(&s->random) % 3 ? buffer_at(b, 0) : NULL;
    *constant = floor(20 * test_uniform(&s->random)) / 8 + 0.1;
}

/* A random record of some of the rows: reading them as one operand or both, or not at all; a copy,
 * maybe strided, or arithmetic. In c, a and b are where the numbers of its operands are; returns a
 * bit for each of these buffers that is not the record's own. */
static int fused_record_new(
    subject *s, int type, const made_rows *made, const row_image *images, record_case *c)
{
    record *r = &c->r;
    const int k = made->out[1] ? (int)(test_random(&s->random) % 2) : 0;
    const int64_t whole = test_random(&s->random) % 3 == 0,
                  from = whole ? 0 : (int64_t)(test_random(&s->random) % (uint64_t)made->width);
    const int64_t columns = whole ? made->width
                                  : 1
                                        + (int64_t)(test_random(&s->random)
                                                    % (uint64_t)(made->width - from));
    const int64_t first = (int64_t)(test_random(&s->random) % (uint64_t)made->rows);
    /* bit 0: a is the row; bit 1: b is */
    int own = (int)(test_random(&s->random) % 4), borrowed = 0;
    *r = (record){
        .rows = (int32_t)(1 + (int64_t)(test_random(&s->random) % (uint64_t)(made->rows - first))),
        .columns = (int32_t)columns,
        .op = (uint8_t)(test_random(&s->random) % 6),
        .out_type = (uint8_t)type,
        .compute = (uint8_t)type,
        .first_row = (int32_t)first,
        .first_column = own ? (int32_t)from : -1,
        .out_column = 1};
    c->a = c->b = (buffer){0};
    other_operand(s, r, type, &c->a, &r->a, &r->a_type, &r->a_row, &r->a_column, &r->a_constant);
    other_operand(s, r, type, &c->b, &r->b, &r->b_type, &r->b_row, &r->b_column, &r->b_constant);
    /* from another float type */
    if (r->op == RECORD_COPY && !(own & 1) && r->a && test_random(&s->random) % 2) {
        buffer_free(&c->a);
        const int other = (type + 1 + (int)(test_random(&s->random) % 2)) % 3;
        c->a = record_operand(s, other, (int64_t)r->rows * (r->columns + 1) + 1);
        r->a = buffer_at(&c->a, 0);
        r->a_type = (uint8_t)other;
    }
    const struct {
        buffer *b;
        const void **at;
        int64_t *row, *column;
    } operands[2] = {
        {&c->a, &r->a, &r->a_row, &r->a_column}, {&c->b, &r->b, &r->b_row, &r->b_column}};
    for (int i = 0; i < 2; i++) {
        if (!(own & 1 << i)) continue;
        buffer_free(operands[i].b);
        borrowed |= 1 << i;
        operands[i].b->values = images[k].numbers + first * made->stride[k] + from;
        *operands[i].at = made->out[k]
                          + (size_t)(first * made->stride[k] + from) * type_sizes[type];
        *operands[i].row = made->stride[k];
        *operands[i].column = 1;
    }
    const bool strides = r->op == RECORD_COPY && r->a && r->a_type == type
                         && test_random(&s->random) % 3 == 0;
    if (strides && (own & 1) && made->parts == 1) { /* every second column */
        r->columns = (r->columns + 1) / 2;
        r->a_column = 2;
        if (own & 2) r->b_column = 2;
    }
    if (strides) r->out_column = 3;
    r->out_row = r->out_column * r->columns
                 + (int64_t)(test_random(&s->random) % 2) * (test_random(&s->random) % 2 ? 3 : 16);
    c->out = buffer_result(s, type, r->rows * r->out_row + 1, test_random(&s->random) % 2 ? 0 : 1);
    r->out = buffer_at(&c->out, 0);
    return borrowed;
}

/* The table of rows first .. end, row by row, as fused_records has it. */
static buffer fused_lists(subject *s, const record_case *cases, int32_t first, int32_t end)
{
    int64_t n = 0;
    for (int i = 0; i < FUSED_RECORDS; i++) n += cases[i].r.rows;
    buffer b = buffer_new(s, INSET_I32, end - first + 1 + n, 0);
    int64_t at = end - first + 1;
    for (int32_t row = first; row < end; row++) {
        b.values[row - first] = (double)at;
        for (int i = 0; i < FUSED_RECORDS; i++)
            if (row >= cases[i].r.first_row && row < cases[i].r.first_row + cases[i].r.rows)
                b.values[at++] = i;
    }
    b.values[end - first] = (double)at;
    buffer_send(&b);
    return b;
}

/* Runs the form with records behind the plain one, over the same arguments. */
static void check_with_records(
    subject *s, kernel_id kernel, int type, const void *args, size_t size, int64_t blocks)
{
    const made_rows made = rows_of_arguments(kernel, args);
    record_case cases[FUSED_RECORDS];
    record table[FUSED_RECORDS];
    int borrowed[FUSED_RECORDS];
    row_image plain[2] = {fetch_rows(s, type, &made, 0), {0}};
    if (made.out[1]) plain[1] = fetch_rows(s, type, &made, 1);
    int32_t first = INT32_MAX, end = 0;
    for (int i = 0; i < FUSED_RECORDS; i++) {
        borrowed[i] = fused_record_new(s, type, &made, plain, &cases[i]);
        table[i] = cases[i].r;
        if (table[i].first_row < first) first = table[i].first_row;
        if (table[i].first_row + table[i].rows > end) end = table[i].first_row + table[i].rows;
    }
    buffer lists = fused_lists(s, cases, first, end);
    struct {
        fused_records fused;
        char args[sizeof(attention_args)];
    } both;
    void *on_device;
    if (size > sizeof both.args || device_allocate(s->device, sizeof table, &on_device)
        || device_upload(s->device, on_device, table, sizeof table))
        abort();
    for (int k = 0; k < 2 && made.out[k]; k++) spoil_rows(s, type, &made, k, &plain[k]);
    both.fused = (fused_records){buffer_at(&lists, 0), on_device, first, end - first};
    memcpy(both.args, args, size);
    CHECK(device_launch(s->device, (kernel_id)(KERNEL_COUNT + kernel), (inset_type)type, &both,
              sizeof both.fused + size, blocks, 1 << 20)
              == INSET_OK,
        "%s: kernel %d with records", s->name, (int)kernel);
    for (int k = 0; k < 2 && made.out[k]; k++) {
        row_image again = fetch_rows(s, type, &made, k);
        CHECK(!memcmp(again.bytes, plain[k].bytes, again.n_bytes),
            "%s: kernel %d %s [%d, %d] has other bits with records", s->name, (int)kernel,
            type_names[type], (int)made.rows, (int)made.width);
        free_rows(&again);
    }
    for (int i = 0; i < FUSED_RECORDS; i++) {
        record_case_check(s, &cases[i]);
        buffer_free(&cases[i].out);
        if (!(borrowed[i] & 1)) buffer_free(&cases[i].a);
        if (!(borrowed[i] & 2)) buffer_free(&cases[i].b);
    }
    buffer_free(&lists);
    device_release(s->device, on_device, sizeof table);
    free_rows(&plain[0]);
    free_rows(&plain[1]);
}

/* Every kernel that says it takes records has both forms, and no other kernel has two. */
static void check_forms(subject *s, const kernel_table *table)
{
    for (int kernel = 0; kernel < KERNEL_COUNT; kernel++)
        for (int type = 0; type < KERNEL_TYPES; type++)
            CHECK(!table->entry[KERNEL_COUNT + kernel][type]
                      == !kernel_takes_records((kernel_id)kernel),
                "%s: kernel %d in %s: wrong forms", s->name, kernel, type_names[type]);
}

#endif
