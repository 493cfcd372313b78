package kerolox;

import java.lang.reflect.Method;
import java.util.List;
import org.junit.jupiter.api.DisplayNameGenerator;

/** Makes the name of a test a sentence: without underscores, and without parameters. */
public final class Sentences extends DisplayNameGenerator.Standard {
    @Override
    public String generateDisplayNameForMethod(List<Class<?>> enclosing, Class<?> test, Method method) {
        return method.getName().replace('_', ' ');
    }
}
