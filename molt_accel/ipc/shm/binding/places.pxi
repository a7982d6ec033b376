# Where a message's class keeps its fields. A field that is read there costs a tenth of a look-up by its name.

cdef extern from "structmember.h":
    ctypedef struct PyMemberDef:
        int type
        Py_ssize_t offset
    const int T_OBJECT_EX
    ctypedef struct PyMemberDescrObject:
        PyMemberDef *d_member


cdef Py_ssize_t place_of(object cls, str name) except -1:
    """Return at which byte of an object of this class the field stands; 0: nobody can say, so it is looked up."""
    cdef object member = cls.__dict__.get(name)
    cdef PyMemberDef *defined
    if type(member) is not MemberDescriptorType:
        return 0
    defined = (<PyMemberDescrObject *>member).d_member
    return defined.offset if defined.type == T_OBJECT_EX else 0


cdef inline object read(object message, Py_ssize_t place, str name):
    """Return a field of a message. `place` is that of its own class, or 0."""
    cdef PyObject *found = NULL
    if place:
        found = (<PyObject **>(<char *><PyObject *>message + place))[0]
    return getattr(message, name) if found == NULL else <object>found
