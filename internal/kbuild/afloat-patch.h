/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * afloat-patch.h - what the author of a live patch may say in patched C files
 *
 * "afloat build" puts this file on the include path of every patched file:
 *
 *	#include "afloat-patch.h"
 *
 * Nothing here goes into a kernel that is built the usual way, so a diff that
 * uses it is for live patches only. What is stated here ends up in the
 * bundle's manifest, where "afloat inspect" shows it.
 *
 * Include it after the file's other headers.
 */
#ifndef AFLOAT_PATCH_H
#define AFLOAT_PATCH_H

#include <linux/livepatch.h>
#include <linux/types.h>

#define AFLOAT__PASTE2(a, b) a##b
#define AFLOAT__PASTE(a, b) AFLOAT__PASTE2(a, b)
#define AFLOAT__NAME(what) AFLOAT__PASTE(what, __LINE__)
#define AFLOAT__IN(where) __attribute__((__used__, __section__(where)))

/*
 * Callbacks
 *
 *	static int begin(struct klp_object *obj) { ... }
 *	static void end(struct klp_object *obj) { ... }
 *
 *	AFLOAT_CALLBACKS(.pre_patch = begin, .post_unpatch = end);
 *
 * They belong to the object that the file is linked into: for a module they
 * run when both the module and the live patch are there, whichever came first.
 *
 *	pre_patch	before any task runs patched code; an error keeps the
 *			live patch off
 *	post_patch	when every task runs patched code
 *	pre_unpatch	before the first task goes back
 *	post_unpatch	when no task runs patched code any more; also when
 *			pre_patch went well and the live patch was taken back
 *
 * When a later live patch replaces this one, only the later one's callbacks
 * run. They are ordinary functions of this file, and may sleep.
 *
 * Where an object has several such sets, they are called in the order of the
 * files and lines, and the unpatch ones in the reverse order. If a pre_patch
 * fails, post_unpatch is called for the sets before it.
 */
struct afloat_callbacks {
	int (*pre_patch)(struct klp_object *obj);
	void (*post_patch)(struct klp_object *obj);
	void (*pre_unpatch)(struct klp_object *obj);
	void (*post_unpatch)(struct klp_object *obj);
};

#define AFLOAT_CALLBACKS(...) \
	static const struct afloat_callbacks AFLOAT__NAME(afloat_callbacks_) \
		AFLOAT__IN(".afloat.callbacks") = { __VA_ARGS__ }

/*
 * States
 *
 *	AFLOAT_STATE(0xaf01, 1);
 *
 * says that the live patch changes something beyond code, which it calls
 * 0xaf01, in a way that is called version 1. The kernel lets a live patch
 * replace another only if it has all of the other's states, none in a lower
 * version. In callbacks, afloat_state() is this live patch's own klp_state, and
 * klp_get_prev_state() is that of the live patch being replaced, or NULL. Their
 * data pointer is the author's.
 */
struct afloat_state {
	unsigned long id;
	unsigned long version;
};

#define AFLOAT_STATE(number, level) \
	_Static_assert((number) != 0, "a state's id is not 0"); \
	_Static_assert((level) >= 0 && (level) <= 0xffffffffL, "a state's version has 32 bits"); \
	static const struct afloat_state AFLOAT__NAME(afloat_state_) \
		AFLOAT__IN(".afloat.states") = { .id = (number), .version = (level) }

/* The live patch that this code is part of. */
extern struct klp_patch afloat_this_patch;

static inline __attribute__((__unused__)) struct klp_state *afloat_state(unsigned long id)
{
	return klp_get_state(&afloat_this_patch, id);
}

/*
 * Shadow variables: a field more for a structure that must keep its layout
 *
 *	AFLOAT_SHADOW(retries, 0xaf02, int);
 *
 * makes functions that hold an int beside any object, found by its address:
 *
 *	int *retries_get(const void *obj);		NULL if it has none
 *	int *retries_make(void *obj, gfp_t gfp);	made of zeros if need be; NULL without memory
 *	void retries_free(void *obj);			when obj goes
 *	void retries_free_all(void);			when nothing uses them any more
 *
 * An id means the same in every live patch: the values outlive a replacement.
 */
#define AFLOAT_SHADOW(name, id, type) \
	static inline __attribute__((__unused__)) type *name##_get(const void *obj) \
	{ \
		return klp_shadow_get((void *)obj, (id)); \
	} \
	static inline __attribute__((__unused__)) type *name##_make(void *obj, gfp_t gfp) \
	{ \
		return klp_shadow_get_or_alloc(obj, (id), sizeof(type), gfp, NULL, NULL); \
	} \
	static inline __attribute__((__unused__)) void name##_free(void *obj) \
	{ \
		klp_shadow_free(obj, (id), NULL); \
	} \
	static inline __attribute__((__unused__)) void name##_free_all(void) \
	{ \
		klp_shadow_free_all((id), NULL); \
	} \
	_Static_assert(sizeof(type) > 0, "a shadow variable holds something")

/*
 * Statements against the builder's judgement. Each wants a reason, which is
 * signed with the bundle and shown to whoever decides about it.
 *
 * AFLOAT_IGNORE_FUNCTION(function, "reason")
 *	The function's change stays out of the live patch.
 * AFLOAT_IGNORE_DATA(variable, "reason")
 *	The running kernel keeps the variable's old value, although the patch
 *	gives it another initial one: a callback may set it, for example.
 * AFLOAT_IGNORE_SECTION("section", "reason")
 *	What changed in a section that is read only at boot or module load,
 *	such as "__param", stays out.
 * AFLOAT_FORCE_TYPE(struct name, "reason")
 *	The type's new layout is right for everything that sees the type: no
 *	code outside of the live patch uses it, and no old instance is left.
 */
#define AFLOAT__SAY(what, of, reason) \
	_Static_assert(sizeof("" reason "") > 1, "state the reason"); \
	static const char AFLOAT__NAME(afloat_note_)[] \
		AFLOAT__IN(".afloat.notes") = what "\0" of "\0" reason

#define AFLOAT_IGNORE_FUNCTION(function, reason) \
	_Static_assert(sizeof(&(function)) > 0, "names a function"); \
	AFLOAT__SAY("ignore function", #function, reason)

#define AFLOAT_IGNORE_DATA(variable, reason) \
	_Static_assert(sizeof(&(variable)) > 0, "names a variable"); \
	AFLOAT__SAY("ignore data", #variable, reason)

#define AFLOAT_IGNORE_SECTION(section, reason) \
	AFLOAT__SAY("ignore section", section, reason)

#define AFLOAT_FORCE_TYPE(type, reason) \
	_Static_assert(sizeof(type) > 0, "names a type"); \
	AFLOAT__SAY("force type", #type, reason)

#endif
